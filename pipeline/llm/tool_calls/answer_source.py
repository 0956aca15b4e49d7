"""The text of a streamed answer, as input of parsers that are generators.

A parser yields when it needs more text, and is resumed when there is more. So its code is written
as if the whole answer were there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

from reellama.pipeline.llm.finite_json import finite_json

T = TypeVar("T")
# Yields when more text is needed; returns what was read.
ParserGenerator = Generator[None, None, T]

_SPACE = re.compile(r"\s*")
# JSON outside of strings, up to a quote or bracket, and inside of a string, up to its end.
_PLAIN = re.compile(r'[^"{}\[\]]*')
_IN_STRING = re.compile(r'(?:[^"\\]|\\.)*', re.DOTALL)
_SCALAR = re.compile(r"[^\s,\]}]*")


class NotACall(Exception):
    """Raised when text that began like a tool call turns out to be none."""


class AnswerSource:
    """The text of an answer and the position of its parser; `ended`: no more text will come.

    is_cut: whether the token limit ended the answer, and not the model itself. `mark` remembers a
    position, so that a call that turns out to be none can be emitted as text.
    """

    def __init__(self) -> None:
        self._text, self._position = "", 0
        self._mark: int | None = None
        self.ended = self.is_cut = False

    def push(self, text: str) -> None:
        """Append more of the answer."""
        # Drop the text that was read, except after a mark.
        begin = self._position if self._mark is None else self._mark
        self._text = self._text[begin:] + text
        self._position -= begin
        self._mark = None if self._mark is None else 0

    def mark(self) -> None:
        """Remember this position."""
        self._mark = self._position

    def go_back(self) -> None:
        """Return to the mark, to read the text after it again."""
        if self._mark is not None:
            self._position, self._mark = self._mark, None

    def forget_mark(self) -> None:
        """Forget the mark."""
        self._mark = None

    @property
    def since_mark(self) -> str:
        """The text read since the mark; "" without a mark."""
        return "" if self._mark is None else self._text[self._mark : self._position]

    @property
    def unread(self) -> str:
        """All text that was not read."""
        return self._text[self._position :]

    def rest(self) -> str:
        """Read all text that there is so far."""
        rest, self._position = self._text[self._position :], len(self._text)
        return rest

    def drop_unread(self) -> None:
        """Discard the unread text."""
        self._text = self._text[: self._position]

    def peek(self) -> ParserGenerator[str]:
        """The next character, "" at the end of the answer."""
        while self._position == len(self._text) and not self.ended:
            yield
        return self._text[self._position : self._position + 1]

    def skip_space(self) -> ParserGenerator[None]:
        """Read white space."""
        while True:
            self._match(_SPACE)
            if self._position < len(self._text) or self.ended:
                return
            yield

    def take(self, literal: str) -> ParserGenerator[bool]:
        """Read `literal` if it is next."""
        while not self._text.startswith(literal, self._position):
            if self.ended or not literal.startswith(self._text[self._position :]):
                return False
            yield
        self._position += len(literal)
        return True

    def expect(self, literal: str) -> ParserGenerator[None]:
        """Read `literal`. Raises NotACall where something else is next."""
        if not (yield from self.take(literal)):
            raise NotACall

    def until(
        self, markers: Sequence[str], on_text: Callable[[str], None], or_end: bool = False
    ) -> ParserGenerator[str]:
        """Read up to and with the first of `markers`; returns the marker.

        The text before is passed to `on_text` as it comes. At the end of the answer, returns "" if
        `or_end`, and otherwise raises NotACall.
        """
        pattern = re.compile("|".join(map(re.escape, sorted(markers, key=len, reverse=True))))
        while True:
            if match := pattern.search(self._text, self._position):
                before, self._position = self._text[self._position : match.start()], match.end()
                if before:
                    on_text(before)
                return match[0]
            end = len(self._text) - (0 if self.ended else self._marker_start_length(markers))
            if end > self._position:
                before, self._position = self._text[self._position : end], end
                on_text(before)
            if self.ended:
                if or_end:
                    return ""
                raise NotACall
            yield

    def text_until(self, *markers: str) -> ParserGenerator[tuple[str, str]]:
        """Read up to and with the first of `markers`; returns the text before it, and the marker.

        Raises NotACall at the end of the answer.
        """
        pieces: list[str] = []
        marker = yield from self.until(markers, pieces.append)
        return "".join(pieces), marker

    def json(self, on_text: Callable[[str], None]) -> ParserGenerator[None]:
        """Read one JSON value, whose text is passed to `on_text` as it comes.

        Only strings and brackets are checked. Raises NotACall at an early end of the answer.
        """
        first = yield from self.peek()
        if first not in ('"', "{", "["):
            while not self._text[self._position :] or self._ends_in(_SCALAR):
                if self.ended:
                    break
                yield
            scalar = self._match(_SCALAR)
            if not scalar:
                raise NotACall
            return on_text(scalar)
        depth = 0
        while True:
            begin = self._position
            depth, character = self._brackets(depth)
            self._emit(begin, on_text)
            if character == '"':
                yield from self._string(on_text)
            elif not character:
                if self.ended:
                    raise NotACall
                yield
                continue
            if depth <= 0:
                return None

    def json_value(self) -> ParserGenerator[Any]:
        """Read and parse one JSON value. Raises NotACall for anything else."""
        pieces: list[str] = []
        yield from self.json(pieces.append)
        try:
            return finite_json("".join(pieces), strict=False)
        except ValueError as error:
            raise NotACall from error

    def json_string(self) -> ParserGenerator[str]:
        """Read and parse one JSON string. Raises NotACall for anything else."""
        value = yield from self.json_value()
        if not isinstance(value, str):
            raise NotACall
        return value

    def _brackets(self, depth: int) -> tuple[int, str]:
        """Read up to a string, the end of the value, or the end of the text.

        Returns the depth of brackets there, and the character at which reading stopped, if any.
        """
        while True:
            self._match(_PLAIN)
            character = self._text[self._position : self._position + 1]
            if character in ("", '"'):
                return depth, character
            self._position += 1
            depth += 1 if character in "{[" else -1
            if depth <= 0:
                return depth, character

    def _string(self, on_text: Callable[[str], None]) -> ParserGenerator[None]:
        begin = self._position
        self._position += 1
        while True:
            self._match(_IN_STRING)
            if self._text[self._position : self._position + 1] == '"':
                self._position += 1
                return self._emit(begin, on_text)
            self._emit(begin, on_text)  # a backslash at the end of the text is not read yet
            if self.ended:
                raise NotACall
            yield
            begin = self._position

    def _emit(self, begin: int, on_text: Callable[[str], None]) -> None:
        if begin < self._position:
            on_text(self._text[begin : self._position])

    def _match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._position)
        assert match is not None  # all of these patterns match ""
        self._position = match.end()
        return match[0]

    def _ends_in(self, pattern: re.Pattern[str]) -> bool:
        """Whether all unread text matches, so that the match may not be complete."""
        match = pattern.match(self._text, self._position)
        return match is not None and match.end() == len(self._text)

    def _marker_start_length(self, markers: Sequence[str]) -> int:
        """How many characters at the end may be the beginning of a marker."""
        n_unread = len(self._text) - self._position
        lengths = (
            n
            for marker in markers
            for n in range(min(len(marker) - 1, n_unread), 0, -1)
            if self._text.endswith(marker[:n])
        )
        return max(lengths, default=0)
