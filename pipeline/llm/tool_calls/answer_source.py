"""Read an answer while it is still being written.

A parser is a generator: where it needs more text than there is, it yields, and is resumed when
there is more. So the code that reads a form of calls looks as if the whole answer were there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

from reellama.pipeline.llm.finite_json import finite_json

T = TypeVar("T")
# Yields where more of the answer is needed; its result is what was read.
ParserGenerator = Generator[None, None, T]

_SPACE = re.compile(r"\s*")
# JSON outside of strings, up to a quote or bracket, and inside of a string, up to its end.
_PLAIN = re.compile(r'[^"{}\[\]]*')
_IN_STRING = re.compile(r'(?:[^"\\]|\\.)*', re.DOTALL)
_SCALAR = re.compile(r"[^\s,\]}]*")


class NotACall(Exception):
    """Raised where text that began like a tool call turns out to be none."""


class AnswerSource:
    """The text of an answer that was not read yet; `ended` says that there will be no more.

    `since_mark` is what was read since `mark`: a call that turns out to be none is text.
    """

    def __init__(self) -> None:
        self._text, self._position = "", 0
        self._mark: int | None = None
        self.ended = False

    def push(self, text: str) -> None:
        """Take more of the answer."""
        # Text that was read is dropped, unless it follows a mark.
        begin = self._position if self._mark is None else self._mark
        self._text = self._text[begin:] + text
        self._position -= begin
        self._mark = None if self._mark is None else 0

    def mark(self) -> None:
        """Remember this position."""
        self._mark = self._position

    def go_back(self) -> None:
        """Go back to where `mark` was called: the text since then is read again."""
        if self._mark is not None:
            self._position, self._mark = self._mark, None

    def forget_mark(self) -> None:
        """Forget the mark: the text read since will not be asked for."""
        self._mark = None

    @property
    def since_mark(self) -> str:
        """The text read since `mark`; nothing once that is forgotten."""
        return "" if self._mark is None else self._text[self._mark : self._position]

    @property
    def unread(self) -> str:
        """All text that is there and was not read."""
        return self._text[self._position :]

    def rest(self) -> str:
        """Read all text that is there."""
        rest, self._position = self._text[self._position :], len(self._text)
        return rest

    def drop_unread(self) -> None:
        """Forget all text that was not read."""
        self._text = self._text[: self._position]

    def peek(self, n: int = 1) -> ParserGenerator[str]:
        """The next `n` characters, or fewer at the end."""
        while len(self._text) - self._position < n and not self.ended:
            yield
        return self._text[self._position : self._position + n]

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
        """Read up to the first of `markers`, and that as well; returns it.

        The text before goes to `on_text` as it comes. At the end of the answer it returns "" if
        `or_end`, and else raises NotACall.
        """
        pattern = re.compile("|".join(map(re.escape, sorted(markers, key=len, reverse=True))))
        while True:
            if match := pattern.search(self._text, self._position):
                before, self._position = self._text[self._position : match.start()], match.end()
                if before:
                    on_text(before)
                return match[0]
            sure = len(self._text) - (0 if self.ended else self._marker_start_length(markers))
            if sure > self._position:
                before, self._position = self._text[self._position : sure], sure
                on_text(before)
            if self.ended:
                if or_end:
                    return ""
                raise NotACall
            yield

    def text_until(self, *markers: str) -> ParserGenerator[tuple[str, str]]:
        """The text before the first of `markers`, and which one it was. Raises NotACall."""
        pieces: list[str] = []
        marker = yield from self.until(markers, pieces.append)
        return "".join(pieces), marker

    def json(self, on_text: Callable[[str], None]) -> ParserGenerator[None]:
        """Read one JSON value; its text goes to `on_text` as it comes.

        Only strings and brackets are looked at. Raises NotACall at an early end of the answer.
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
        """Read one JSON value. Raises NotACall for what is none."""
        pieces: list[str] = []
        yield from self.json(pieces.append)
        try:
            return finite_json("".join(pieces), strict=False)
        except ValueError as error:
            raise NotACall from error

    def json_string(self) -> ParserGenerator[str]:
        """Read one JSON string. Raises NotACall for what is none."""
        value = yield from self.json_value()
        if not isinstance(value, str):
            raise NotACall
        return value

    def _brackets(self, depth: int) -> tuple[int, str]:
        """Read brackets, and what is between them, up to a string, the end of the value, or of the
        text: the depth there, and the character that stopped it, if any."""
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
            self._emit(begin, on_text)  # a backslash that ends the text is not read yet
            if self.ended:
                raise NotACall
            yield
            begin = self._position

    def _emit(self, begin: int, on_text: Callable[[str], None]) -> None:
        if begin < self._position:
            on_text(self._text[begin : self._position])

    def _match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._position)
        assert match is not None  # each of these patterns matches "" too
        self._position = match.end()
        return match[0]

    def _ends_in(self, pattern: re.Pattern[str]) -> bool:
        """Whether all unread text matches, so that more of it may come."""
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
