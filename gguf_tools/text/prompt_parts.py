"""The parts of a prompt: text, token ids, and soft tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Text:
    """A piece of text. Neighbouring pieces are joined before they are tokenized.

    `special` states whether names such as `<|im_end|>` become special tokens: true for the text of
    a chat template, false for anything that a person typed.
    """

    text: str
    special: bool = False


@dataclass(frozen=True)
class TokenIds:
    """Token ids to use unchanged; the texts before and after are tokenized separately."""

    ids: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class SoftTokens:
    """Embeddings in place of token ids.

    Attributes:
        rows: float32 `[n, n_embd]`.
        offsets: for models with M-RoPE (Qwen2-VL, arXiv:2409.12191), int32 `[3, n]`: offsets of the
            tokens from the first position in time, height and width. None means consecutive
            positions.
        n_positions: positions that the tokens take up, by default n; the next part of the prompt
            begins after them.
        causal: False lets all rows attend to each other, as Gemma 3 does for an image.
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
        """Whether the KV cache can be truncated between two of the tokens."""
        return self.offsets is None and self.causal

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> SoftTokens:
        if self.divisible:
            return SoftTokens(self.rows[part])
        offsets = None if self.offsets is None else self.offsets[:, part]
        return SoftTokens(self.rows[part], offsets, self.n_positions, self.causal)


# A float32 array `[n, n_embd]` is short for SoftTokens(array).
PromptPart = Text | TokenIds | SoftTokens | np.ndarray
Prompt = list[PromptPart]


def soft_tokens_of(part: SoftTokens | np.ndarray) -> SoftTokens:
    """Convert an array into SoftTokens; SoftTokens are returned unchanged."""
    return part if isinstance(part, SoftTokens) else SoftTokens(part)


def count_soft_tokens(parts: Sequence[PromptPart]) -> int:
    """The number of soft tokens in a prompt."""
    return sum(len(part) for part in parts if isinstance(part, SoftTokens | np.ndarray))
