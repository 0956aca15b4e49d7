"""Decodes the bytes of tokens to text, without partial characters and stop strings."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

from reellama.gguf_tools.errors import ReellamaError

T = TypeVar("T")


class TextStream(Generic[T]):
    """Returns each token with its text as soon as that text is certain.

    A token is held back while its bytes end inside of a character or may begin a stop string.
    Tokens are returned in order, without those of a stop string. A character that spans several
    tokens belongs to the last of them. Raises ReellamaError for a stop string without UTF-8.
    """

    def __init__(self, stop: Sequence[str] = ()):
        try:
            self._stop = [s.encode() for s in stop if s]
        except UnicodeEncodeError as error:
            raise ReellamaError(
                f"the stop text {error.object!r} holds half a character (a lone surrogate), which "
                "no answer can have"
            ) from error
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held: deque[tuple[T, bytes]] = deque()
        self._bytes = b""  # of the held tokens
        self.stopped = False
        self.stop_text: str | None = None  # the stop string that was found

    def push(self, token: T, piece: bytes) -> list[tuple[T, str]]:
        """Add a token; returns the tokens that are certain now, with their texts."""
        self._held.append((token, piece))
        self._bytes += piece
        matches = [(at, s) for s in self._stop if (at := self._bytes.find(s)) >= 0]
        if matches:
            at, text = min(matches)
            self.stopped, self.stop_text = True, text.decode()
            return self._release(at)
        return self._release(len(self._bytes) - self._uncertain())

    def flush(self) -> list[tuple[T, str]]:
        """The held tokens, at the end of the answer."""
        released = self._release(len(self._bytes))
        if rest := self._decoder.decode(b"", final=True):
            if not released:
                return released
            token, text = released[-1]
            released[-1] = (token, text + rest)
        return released

    def _uncertain(self) -> int:
        """How many bytes at the end may belong to an incomplete character or a stop string."""
        n = _unfinished(self._bytes)
        for s in self._stop:
            for length in range(min(len(s) - 1, len(self._bytes)), n, -1):
                if self._bytes.endswith(s[:length]):
                    n = length
                    break
        return n

    def _release(self, n: int) -> list[tuple[T, str]]:
        """The tokens within the first `n` held bytes; a stop string may cut the last one short."""
        released = []
        while self._held and len(self._held[0][1]) <= n:
            token, piece = self._held.popleft()
            n -= len(piece)
            self._bytes = self._bytes[len(piece) :]
            released.append((token, self._decoder.decode(piece)))
        if self.stopped and n:
            token, piece = self._held[0]
            released.append((token, self._decoder.decode(piece[:n])))
        return released


def _unfinished(data: bytes) -> int:
    """How many bytes at the end of `data` are an incomplete UTF-8 character."""
    tail = data[-3:]
    return len(tail) - codecs.utf_8_decode(tail, "replace", False)[1]
