"""A GGUF's LLM in PyTorch: frozen, dequantized, for the loss and to compare llama.cpp with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gguf_tools.errors import ReellamaError
from gguf_tools.reader import read_gguf
from gguf_tools.template import ChatTemplate
from gguf_tools.tokenizer import Tokenizer
from models.prompting import question_ids
from models.torchvision_compat import ensure_torchvision


@dataclass(frozen=True)
class Example:
    """A question about a video as token ids; soft tokens stand between `before` and `after`."""

    before: list[int]
    after: list[int]
    answer: list[int]  # ends in the token that ends a turn


class FrozenLLM:
    """Every weight is fixed; gradients reach the soft tokens only.

    Attributes:
        model: the transformers model, in `dtype`.
        n_embd: width of its token embeddings.
        embedding_scale: what token embeddings, and not soft tokens, are multiplied by before the
            first layer: 1 but for Gemma.
    """

    def __init__(self, path: Path, *, dtype: torch.dtype = torch.float32) -> None:
        ensure_torchvision()
        import transformers

        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        logging.getLogger("transformers").setLevel(logging.ERROR)
        header = read_gguf(path)
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(
                str(path.parent), gguf_file=path.name, dtype=torch.float32
            )
        except (ValueError, KeyError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ReellamaError(f"{path}: PyTorch cannot train with this GGUF: {reason}") from error
        self.model: nn.Module = model.to(dtype).eval().requires_grad_(False)
        self.dtype = dtype
        self.n_embd = header.n_embd
        self.embedding_scale = header.embedding_scale
        self.template = ChatTemplate.from_gguf(header)
        self.tokenizer = Tokenizer.from_path(path)

    def example(self, system: str | None, question: str, answer: str) -> Example:
        """Tokenize a question and its answer as the engine would."""
        before, after = question_ids(self.template, self.tokenizer, system, question)
        end = self.tokenizer.eos
        ids = self.tokenizer.encode(answer)
        return Example(before, after, [*ids, end] if end is not None else ids)

    def embed(self, ids: Sequence[int] | Tensor) -> Tensor:
        """Token ids -> what the first layer gets for them, `[..., n_embd]`."""
        rows = torch.as_tensor(ids, dtype=torch.long)
        return F.embedding(rows, self.model.get_input_embeddings().weight) * self.embedding_scale

    def _inputs(self, soft: Tensor, examples: Sequence[Example], with_answer: bool) -> Tensor:
        """Left-padded inputs `[B, L, n_embd]`; the padding is zeros."""
        rows = []
        for tokens, example in zip(soft, examples, strict=True):
            end = example.answer if with_answer else []
            parts = [self.embed(example.before), tokens, self.embed([*example.after, *end])]
            rows.append(torch.cat([part.to(self.dtype) for part in parts]))
        longest = max(len(row) for row in rows)
        return torch.stack([F.pad(row, (0, 0, longest - len(row), 0)) for row in rows])

    def hidden(self, inputs: Tensor, lengths: Sequence[int]) -> Tensor:
        """Last hidden states of left-padded inputs, `[B, L, n_embd]`."""
        lengths_ = torch.as_tensor(lengths)
        steps = torch.arange(inputs.shape[1])
        start = inputs.shape[1] - lengths_  # first real position of each row
        mask = (steps >= start[:, None]).long()
        positions = (steps - start[:, None]).clamp(min=0)
        return self.model.get_decoder()(
            inputs_embeds=inputs, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state

    def loss(self, soft: Tensor, examples: Sequence[Example]) -> Tensor:
        """Mean cross-entropy of the answers' tokens given soft tokens `[B, tokens, n_embd]`."""
        inputs = self._inputs(soft, examples, with_answer=True)[:, :-1]
        lengths = [
            soft.shape[1] + len(e.before) + len(e.after) + len(e.answer) - 1 for e in examples
        ]
        hidden = self.hidden(inputs, lengths)
        # The head only where an answer is predicted, on a contiguous matrix: on a 3-D slice torch
        # copies the vocabulary matrix for each sample.
        wanted = torch.cat([hidden[i, -len(e.answer) :] for i, e in enumerate(examples)])
        logits = self.model.get_output_embeddings()(wanted).float()
        return F.cross_entropy(logits, torch.tensor([t for e in examples for t in e.answer]))

    @torch.inference_mode()
    def greedy(self, soft: np.ndarray, example: Example, max_tokens: int = 64) -> str:
        """The greedy answer after soft tokens `[tokens, n_embd]`, to compare with the engine's."""
        rows = torch.from_numpy(soft)[None]
        inputs = self._inputs(rows, [example], with_answer=False)
        output: list[int] = []
        for _ in range(max_tokens):
            hidden = self.hidden(inputs, [inputs.shape[1]])
            token = int(self.model.get_output_embeddings()(hidden[0, -1]).argmax())
            if self.tokenizer.is_eog(token):
                break
            output.append(token)
            inputs = torch.cat([inputs, self.embed([token])[None]], dim=1)
        return self.tokenizer.decode(output)
