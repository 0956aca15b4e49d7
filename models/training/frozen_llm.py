"""A GGUF's LLM in PyTorch: frozen, dequantized, for the loss and to compare llama.cpp with."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import GGUFFile, read_gguf
from reellama.gguf_tools.text.chat_template import ChatTemplate
from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.models.prompt_format import question_ids
from reellama.models.vision.torchvision_compat import ensure_torchvision


@dataclass(frozen=True)
class Example:
    """A question about a video as token ids; soft tokens stand between `before` and `after`."""

    before: list[int]
    after: list[int]
    answer: list[int]  # ends in the token that ends a turn


def _check_heads(header: GGUFFile, path: Path) -> None:
    """Refuse a file whose attention transformers would silently read in the wrong order.

    It puts the rows of q and k back in order only where the number of key-value heads is written,
    which may be left out of a GGUF when it is that of the other heads.
    """
    name = f"{header.architecture}.attention.head_count_kv"
    if header.architecture == "llama" and name not in header.metadata:
        raise ReellamaError(
            f"{path}: PyTorch cannot train with this GGUF: it lacks {name}; "
            "write it in, with the value of head_count, and try again"
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Only errors from transformers' logger, for as long as the context lasts."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(max(level, logging.ERROR))
    try:
        yield
    finally:
        logger.setLevel(level)


class FrozenLLM:
    """Every weight is fixed; gradients reach the soft tokens only.

    Attributes:
        model: the transformers model, in `dtype`.
        n_embd: width of its token embeddings.
        embedding_scale: what token embeddings, and not soft tokens, are multiplied by before the
            first layer: 1 but for Gemma.
    """

    def __init__(
        self, path: Path, *, dtype: torch.dtype = torch.float32, attention: str = "eager"
    ) -> None:
        ensure_torchvision()
        import transformers

        header = read_gguf(path)
        _check_heads(header, path)
        try:
            with quiet_transformers(), redirect_stderr(io.StringIO()):  # progress bars
                model = transformers.AutoModelForCausalLM.from_pretrained(
                    str(path.parent),
                    gguf_file=path.name,
                    dtype=torch.float32,
                    # On a CPU, going back through PyTorch's fused attention takes most of a step.
                    attn_implementation=attention,
                )
        except (ValueError, KeyError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ReellamaError(f"{path}: PyTorch cannot train with this GGUF: {reason}") from error
        self.model: nn.Module = model.to(dtype).eval().requires_grad_(False)
        self.dtype = dtype
        self._prefixes: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        self.n_embd = header.n_embd
        self.embedding_scale = header.embedding_scale
        self.template = ChatTemplate.from_gguf(header)
        self.tokenizer = Tokenizer.from_path(path)

    def to(self, device: torch.device) -> FrozenLLM:
        """Move the weights."""
        self.model.to(device)
        return self

    def example(
        self,
        system: str | None,
        question: str,
        answer: str,
        turns: Sequence[tuple[str, str]] = (),
    ) -> Example:
        """Tokenize a question and its answer as the engine would; `turns` are earlier ones."""
        before, after = question_ids(self.template, self.tokenizer, system, question, turns)
        end = self.tokenizer.eos
        ids = self.tokenizer.encode(answer)
        return Example(before, after, [*ids, end] if end is not None else ids)

    def embed(self, ids: Sequence[int] | Tensor) -> Tensor:
        """Token ids -> what the first layer gets for them, `[..., n_embd]`."""
        weight = self.model.get_input_embeddings().weight
        rows = torch.as_tensor(ids, dtype=torch.long, device=weight.device)
        return F.embedding(rows, weight) * self.embedding_scale

    @torch.no_grad()
    def _prefix(self, before: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of the ids before the soft tokens, which all examples share, by layer."""
        if before not in self._prefixes:
            output = self.model(inputs_embeds=self.embed(before)[None], use_cache=True)
            self._prefixes[before] = [
                (layer.keys, layer.values) for layer in output.past_key_values.layers
            ]
        return self._prefixes[before]

    def hidden(self, inputs: Tensor, lengths: Sequence[int], before: Sequence[int]) -> Tensor:
        """Last hidden states of left-padded inputs `[B, L, n_embd]` that follow `before`."""
        from transformers import DynamicCache

        batch, longest = inputs.shape[:2]
        start = longest - torch.as_tensor(lengths)[:, None]  # first real position of each row
        steps = torch.arange(longest)
        prefix_mask = torch.ones(batch, len(before), dtype=torch.long)
        shared = [
            (keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1))
            for keys, values in self._prefix(tuple(before))
        ]
        return self.model.get_decoder()(
            inputs_embeds=inputs,
            attention_mask=torch.cat([prefix_mask, (steps >= start).long()], dim=1),
            position_ids=(steps - start).clamp(min=0) + len(before),
            past_key_values=DynamicCache(shared),
            use_cache=True,
        ).last_hidden_state

    def loss(self, soft: Tensor, examples: Sequence[Example]) -> Tensor:
        """Mean cross-entropy of the answers' tokens given soft tokens `[B, tokens, n_embd]`.

        All examples must begin alike: with the same system prompt.
        """
        rows = [
            torch.cat([tokens.to(self.dtype), self.embed([*e.after, *e.answer[:-1]])])
            for tokens, e in zip(soft, examples, strict=True)
        ]
        lengths = [len(row) for row in rows]
        inputs = torch.stack([F.pad(row, (0, 0, max(lengths) - len(row), 0)) for row in rows])
        hidden = self.hidden(inputs, lengths, examples[0].before)
        # The head only where an answer is predicted, on a contiguous matrix: on a 3-D slice torch
        # copies the vocabulary matrix for each sample.
        wanted = torch.cat([hidden[i, -len(e.answer) :] for i, e in enumerate(examples)])
        logits = self.model.get_output_embeddings()(wanted).float()
        return F.cross_entropy(logits, torch.tensor([t for e in examples for t in e.answer]))

    @torch.inference_mode()
    def greedy(self, soft: np.ndarray, example: Example, max_tokens: int = 64) -> str:
        """The greedy answer after soft tokens `[tokens, n_embd]`, to compare with the engine's."""
        rows = torch.from_numpy(soft).to(self.dtype)
        inputs = torch.cat([rows, self.embed(example.after)])[None]
        output: list[int] = []
        for _ in range(max_tokens):
            hidden = self.hidden(inputs, [inputs.shape[1]], example.before)
            token = int(self.model.get_output_embeddings()(hidden[0, -1]).argmax())
            if self.tokenizer.is_eog(token):
                break
            output.append(token)
            inputs = torch.cat([inputs, self.embed([token])[None]], dim=1)
        return self.tokenizer.decode(output)
