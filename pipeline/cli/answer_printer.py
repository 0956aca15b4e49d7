"""An answer on its way to stdout, token by token."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import closing
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from reellama.pipeline.cli.console import (
    confidence_color,
    err,
    note,
    out,
    shows_progress,
    strip_control,
)
from reellama.pipeline.cli.terminal.progress_bars import Spinner

if TYPE_CHECKING:  # an answer of a running server is printed without all this
    from reellama.pipeline.chat.conversation import TokenStream
    from reellama.pipeline.chat.video_chat import VideoChat
    from reellama.pipeline.llm.engine import Token

# A "word" this wide is written although it goes on: languages without spaces have no other breaks.
MAX_WORD_COLUMNS = 24


class AnswerPrinter:
    """Writes text to a terminal as it comes, breaking lines between words.

    A word is held back until it is known to be whole. Into a file or a pipe the text goes as it is.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._column = 0
        self._space = ""
        self._word: list[tuple[str, str]] = []
        self._started = False

    def write(self, text: str, style: str = "") -> None:
        """Add text; what the model puts before its first word is left out."""
        if not self._started:
            text = text.lstrip()
            self._started = bool(text)
        if not self._console.is_terminal:
            text = self._space + text
            self._space = text[len(text.rstrip()) :]  # left out at the end
            self._console.file.write(text.rstrip())
            self._console.file.flush()
            return
        for part in re.findall(r"\n|[^\S\n]+|\S+", strip_control(text)):
            if part == "\n":
                self._put_word()
                self._put("\n")
                self._column, self._space = 0, ""
            elif part.isspace():
                self._put_word()
                self._space += part.expandtabs(4)
            else:
                self._word.append((part, style))
                if sum(cell_len(text) for text, _ in self._word) >= MAX_WORD_COLUMNS:
                    self._put_word()

    def finish(self) -> None:
        """Write what was held back, and end the line."""
        self._put_word()
        if self._started:
            self._put("\n")

    def _put_word(self) -> None:
        if not self._word:
            return
        width = sum(cell_len(text) for text, _ in self._word)
        if self._column and self._column + len(self._space) + width > self._console.width:
            self._put("\n")
            self._column = 0
        elif self._space:
            self._put(self._space)
            self._column += len(self._space)
        for text, style in self._word:
            self._put(text, style)
        # A full line leaves the cursor behind its last column, not in the first of the next.
        self._column = (self._column + width - 1) % self._console.width + 1
        self._space = ""
        self._word = []

    def _put(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style), end="", soft_wrap=True)
        self._console.file.flush()


def print_answer(answer: TokenStream, tokens: list[Token], *, probs: bool = False) -> None:
    """Write an answer to stdout as it comes, and gather its tokens in `tokens`.

    Ctrl-C passes through, after what was written is ended properly.
    """

    def pieces() -> Generator[tuple[str, str], None, None]:
        with closing(answer):
            for token in answer:
                tokens.append(token)
                yield token.text, confidence_color(token.p) if probs else ""

    print_pieces(pieces())


def print_pieces(pieces: Generator[tuple[str, str], None, None]) -> None:
    """Write texts with their styles to stdout as they come, as `print_answer` does."""
    printer = AnswerPrinter(out)
    waiting = Spinner("[dim]thinking", console=err)
    with closing(pieces):
        try:
            if shows_progress():
                waiting.start()
            for text, style in pieces:
                waiting.stop()
                printer.write(text, style)
        finally:
            waiting.stop()
            printer.finish()


def print_limit(stop_reason: str | None, max_tokens: int) -> None:
    """Say so where a limit cut the answer off."""
    if stop_reason == "context":
        note("the context is full: the answer ends here")
    elif stop_reason == "length":
        note(f"the answer was ended at {max_tokens} tokens (max_tokens)")


def print_remarks(video_chat: VideoChat, max_tokens: int) -> None:
    """Say what a person should know about the answer: a limit cut it off, or a stopgap was used."""
    print_limit(video_chat.last.stop_reason, max_tokens)
    engine = video_chat.engine
    if engine.template.problem and len(video_chat.turns) == 1:
        note(f"{engine.path.name}: {engine.template.problem}; ChatML takes its place")
