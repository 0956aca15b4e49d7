"""The LLM of a GGUF in PyTorch, dequantized and frozen: for training, and to check llama.cpp."""

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
    """A question about a video and its answer, as token ids."""

    before: list[int]  # before the soft tokens
    after: list[int]  # after the soft tokens
    answer: list[int]  # ends with the end-of-turn token


def _check_heads(header: GGUFFile, path: Path) -> None:
    """Raise ReellamaError for a file whose attention transformers would silently load wrongly.

    transformers undoes llama.cpp's permutation of the rows of q and k only if the number of
    key-value heads is in the GGUF, which may lack it if it equals the number of heads.
    """
    name = f"{header.architecture}.attention.head_count_kv"
    if header.architecture == "llama" and name not in header.metadata:
        raise ReellamaError(
            f"{path}: PyTorch cannot train with this GGUF: it lacks {name}; "
            "write it in, with the value of head_count, and try again"
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """A context in which transformers logs only errors."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(max(level, logging.ERROR))
    try:
        yield
    finally:
        logger.setLevel(level)


class FrozenLLM:
    """A GGUF's LLM in transformers. All weights are frozen; gradients reach the soft tokens only.

    Args:
        path: the GGUF.
        dtype: of the weights.
        attention: transformers' implementation of attention. The backward pass through PyTorch's
            fused attention takes most of a step on a CPU, so the default is "eager".

    Attributes:
        model: the transformers model.
        n_embd: width of its token embeddings.
        embedding_scale: factor on token embeddings, but not on soft tokens, before the first layer:
            1 except for Gemma.

    Raises:
        ReellamaError: transformers cannot load the GGUF.
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
        """Token ids -> scaled embeddings `[..., n_embd]`, which are the first layer's input."""
        weight = self.model.get_input_embeddings().weight
        rows = torch.as_tensor(ids, dtype=torch.long, device=weight.device)
        return F.embedding(rows, weight) * self.embedding_scale

    @torch.no_grad()
    def _prefix(self, before: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
        """Keys and values, by layer, of the ids before the soft tokens, which examples share."""
        if before not in self._prefixes:
            output = self.model(inputs_embeds=self.embed(before)[None], use_cache=True)
            self._prefixes[before] = [
                (layer.keys, layer.values) for layer in output.past_key_values.layers
            ]
        return self._prefixes[before]

    def hidden(self, inputs: Tensor, lengths: Sequence[int], before: Sequence[int]) -> Tensor:
        """Last hidden states `[B, L, n_embd]` of inputs that follow the token ids `before`.

        inputs: left-padded, `[B, L, n_embd]`. lengths: of each row without padding.
        """
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

        All examples must have the same ids `before` their soft tokens.
        """
        rows = [
            torch.cat([tokens.to(self.dtype), self.embed([*e.after, *e.answer[:-1]])])
            for tokens, e in zip(soft, examples, strict=True)
        ]
        lengths = [len(row) for row in rows]
        inputs = torch.stack([F.pad(row, (0, 0, max(lengths) - len(row), 0)) for row in rows])
        hidden = self.hidden(inputs, lengths, examples[0].before)
        # Apply the head only where an answer is predicted, and to a contiguous 2-D matrix: for a
        # 3-D slice, torch copies the vocabulary matrix for each sample.
        predicting = torch.cat([hidden[i, -len(e.answer) :] for i, e in enumerate(examples)])
        logits = self.model.get_output_embeddings()(predicting).float()  # [N, vocabulary]
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
