"""What a prompt is made of: text, token ids, and soft tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Text:
    """A piece of text; neighbouring pieces are tokenized as one text would be.

    `special` says whether `<|im_end|>` and the like in it act as special tokens: true for what a
    chat template writes, false for anything that a person typed.
    """

    text: str
    special: bool = False


@dataclass(frozen=True)
class TokenIds:
    """Token ids that are taken as they are; the text on either side is tokenized on its own."""

    ids: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class SoftTokens:
    """Embeddings in place of token ids, and how llama.cpp reads them.

    rows: float32 `[n, n_embd]`.
    offsets: for models with M-RoPE (Qwen2-VL, arXiv:2409.12191), int32 `[3, n]`: how far each token
    lies from the first position in time, down and to the right. None: one position after another.
    n_positions: how far the first position of what follows is from the first of these.
    causal: whether a token sees only those before it; else all of `rows` see each other, as
    Gemma 3 reads a picture.
    """

    rows: np.ndarray
    offsets: np.ndarray | None = None
    n_positions: int = -1
    causal: bool = True

    def __post_init__(self) -> None:
        if self.n_positions < 0:
            object.__setattr__(self, "n_positions", len(self.rows))

    @property
    def divisible(self) -> bool:
        """Whether the KV cache can be cut between two of the tokens."""
        return self.offsets is None and self.causal

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> SoftTokens:
        if self.divisible:
            return SoftTokens(self.rows[part])
        offsets = None if self.offsets is None else self.offsets[:, part]
        return SoftTokens(self.rows[part], offsets, self.n_positions, self.causal)


# A float32 array `[n, n_embd]` stands for SoftTokens of it.
PromptPart = Text | TokenIds | SoftTokens | np.ndarray
Prompt = list[PromptPart]


def soft_tokens_of(part: SoftTokens | np.ndarray) -> SoftTokens:
    """A part of a prompt as SoftTokens, made of an array where it is one."""
    return part if isinstance(part, SoftTokens) else SoftTokens(part)


def count_soft_tokens(parts: Sequence[PromptPart]) -> int:
    """How many soft tokens are in a prompt."""
    return sum(len(part) for part in parts if isinstance(part, SoftTokens | np.ndarray))
