"""Lines that a person types, with editing, history and completion; in a pipe, plain lines."""

from __future__ import annotations

import contextlib
import sys
import termios
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from platformdirs import user_data_path
from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import HTML
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.shortcuts import CompleteStyle

HINT = HTML("<ansibrightblack>Ask about the video, or /help</ansibrightblack>")
TAKES_PATH = ("/add", "/load", "/save")


def data_dir() -> Path:
    """Where the history and the last conversation are kept; made when it is not there."""
    path = user_data_path("reellama", appauthor=False)
    path.mkdir(parents=True, exist_ok=True)
    return path


def read_lines(commands: Sequence[str]) -> Iterator[str]:
    """Yield what is typed, until Ctrl-D or the end of the input. Ctrl-C gives up a line."""
    if not is_interactive():
        yield from (line.rstrip("\n") for line in sys.stdin)
        return
    session = _session(commands)
    while True:
        try:
            yield session.prompt(">>> ", placeholder=HINT)
        except KeyboardInterrupt:
            if not session.default_buffer.text:
                sys.stdout.write("Ctrl-D or /bye leaves\n")
        except EOFError:
            return


def is_interactive() -> bool:
    """Whether stdin and stdout are both terminals."""
    return sys.stdin.isatty() and sys.stdout.isatty()


@contextlib.contextmanager
def no_echo() -> Iterator[None]:
    """Keep what is typed during an answer out of it; it waits for the next prompt."""
    if not is_interactive():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    quiet = list(before)
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


def _session(commands: Sequence[str]) -> PromptSession[str]:
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    try:
        history = _History(data_dir() / "history")
    except OSError:  # no place to keep one
        history = None
    return PromptSession(
        history=history,
        auto_suggest=AutoSuggestFromHistory(),
        completer=_Completer(commands),
        complete_while_typing=False,
        complete_style=CompleteStyle.READLINE_LIKE,
        reserve_space_for_menu=0,
        enable_history_search=True,
        key_bindings=keys,
    )


class _History(FileHistory):
    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError):  # a full disk must not end the conversation
            super().store_string(string)


class _Completer(Completer):
    """Commands at the start of a line, and paths after those that take one."""

    def __init__(self, commands: Sequence[str]) -> None:
        self._commands = commands
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        command, space, rest = document.text_before_cursor.partition(" ")
        if not space and command.startswith("/"):
            for name in self._commands:
                if name.startswith(command):
                    yield Completion(f"{name} ", start_position=-len(command))
        elif command in TAKES_PATH:
            yield from self._paths.get_completions(Document(rest), event)
