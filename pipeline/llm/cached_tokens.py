"""Which prompt the KV cache holds, so that the next one rereads only what differs."""

from __future__ import annotations

from collections.abc import Sequence

from llama_cpp import llama_cpp

from reellama.pipeline.llm.prompt import CellKey, GeneratedText, TokenSpan


class CachedTokens:
    """What the KV cache of one sequence of a llama.cpp context holds: a list, not keys and values.

    `keys[i]` says what cell i holds. A cell's number is its position too, but for models with
    M-RoPE, where a picture's tokens take many cells and few positions. This list may lag behind
    the memory (an interrupted call leaves cells that it does not list) but never claims more than
    the memory has: entries are added after they were decoded, and removed before the memory is cut.
    """

    def __init__(self, ctx: llama_cpp.llama_context_p, sequence: int = 0):
        self._memory = llama_cpp.llama_get_memory(ctx)
        self.sequence = sequence
        self.keys: list[CellKey] = []
        self.end = 0  # the position of what comes next
        self._cut_positions: list[int] = []  # where the memory is cut to forget a cell
        self.answers: dict[int, GeneratedText] = {}  # generated text by the cell where it starts

    def __len__(self) -> int:
        return len(self.keys)

    def extend(self, span: TokenSpan) -> None:
        """Note that a span was decoded."""
        self.keys += span.keys
        self._cut_positions += span.cut_positions()
        self.end = span.end

    def common_prefix(self, keys: Sequence[CellKey]) -> int:
        """How many cells at the front hold what `keys` asks for."""
        n = 0
        for have, want in zip(self.keys, keys, strict=False):
            if have != want:
                break
            n += 1
        return n

    def truncate(self, n: int) -> int:
        """Forget everything from cell `n` on; returns how many cells are left.

        These are `n`, or 0 where the memory cannot be cut (recurrent models keep one state only).
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
        """Forget everything."""
        self.keys.clear()
        self._cut_positions.clear()
        self.end = 0
        self.answers.clear()
        llama_cpp.llama_memory_seq_rm(self._memory, self.sequence, -1, -1)
