"""Tracks which tokens the KV cache holds, so that a prompt reuses the longest common prefix."""

from __future__ import annotations

from collections.abc import Sequence

from llama_cpp import llama_cpp

from reellama.pipeline.llm.prompt import CellKey, GeneratedText, TokenSpan


class CachedTokens:
    """The tokens in the KV cache of one sequence of a llama.cpp context.

    `keys[i]` identifies the token in cell i. A cell's index is also its position, except in models
    with M-RoPE, where a picture's tokens take many cells and few positions. The KV cache may hold
    more than this list (an interrupted call leaves unlisted cells) but never less: keys are added
    after decoding, and removed before the KV cache is cut.
    """

    def __init__(self, ctx: llama_cpp.llama_context_p, sequence: int = 0):
        self._memory = llama_cpp.llama_get_memory(ctx)
        self.sequence = sequence
        self.keys: list[CellKey] = []
        self.end = 0  # the next position
        self._cut_positions: list[int] = []  # for each cell, where the KV cache is cut to remove it
        self.answers: dict[int, GeneratedText] = {}  # generated text by the cell where it starts

    def __len__(self) -> int:
        return len(self.keys)

    def extend(self, span: TokenSpan) -> None:
        """Add a span that was decoded."""
        self.keys += span.keys
        self._cut_positions += span.cut_positions()
        self.end = span.end

    def common_prefix(self, keys: Sequence[CellKey]) -> int:
        """How many cells from the start on have the same keys."""
        n = 0
        for cached, key in zip(self.keys, keys, strict=False):
            if cached != key:
                break
            n += 1
        return n

    def truncate(self, n: int) -> int:
        """Remove all cells from `n` on; returns how many are left.

        These are `n`, or 0 if the model's memory cannot be cut (recurrent models keep one state).
        """
        if n < len(self.keys):
            self.end = self._cut_positions[n]
        del self.keys[n:], self._cut_positions[n:]
        self.answers = {start: answer for start, answer in self.answers.items() if start < n}
        if llama_cpp.llama_memory_seq_rm(self._memory, self.sequence, self.end, -1):
            return n
        self.clear()
        return 0

    def clear(self) -> None:
        """Remove all cells."""
        self.keys.clear()
        self._cut_positions.clear()
        self.end = 0
        self.answers.clear()
        llama_cpp.llama_memory_seq_rm(self._memory, self.sequence, -1, -1)
