"""A terminal without a window: a program runs in a pseudo-terminal, and its screen can be read."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path

import pyte

ROOT = Path(__file__).parents[2]
REELLAMA = (sys.executable, "-m", "reellama")
CTRL_C, CTRL_D, ESCAPE, ENTER, UP, TAB = "\x03", "\x04", "\x1b", "\r", "\x1b[A", "\t"
# Other processes may hold the cores: this says when to give up, not how fast anything should be.
TIMEOUT_SECONDS = 240.0


class _Screen(pyte.HistoryScreen):
    """Answers the program's questions, such as where the cursor is."""

    def __init__(self, columns: int, lines: int, keyboard: int) -> None:
        super().__init__(columns, lines, history=1000, ratio=1.0)
        self._keyboard = keyboard

    def write_process_input(self, data: str) -> None:
        os.write(self._keyboard, data.encode())


class Terminal:
    """`command` in a terminal of 80 columns. Use it in a `with` block, which ends the program."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: dict[str, str] | None = None,
        columns: int = 80,
        lines: int = 40,
    ) -> None:
        self.raw = b""
        self._fd, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self._screen = _Screen(columns, lines, self._fd)
        self._stream = pyte.ByteStream(self._screen)
        self.process = subprocess.Popen(
            command,
            stdin=inside,
            stdout=inside,
            stderr=inside,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(inside)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._fd)

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._fd, keys.encode())

    def wait_for(self, pattern: str, seconds: float = TIMEOUT_SECONDS) -> str:
        """Wait until the text on and above the screen matches; returns that text."""
        until = time.monotonic() + seconds
        while not re.search(pattern, text := self.text(), re.MULTILINE):
            seen = len(self.raw)
            while len(self.raw) == seen:
                if time.monotonic() > until or not self._read(0.1):
                    raise AssertionError(f"{pattern!r} did not come; the terminal shows:\n{text}")
        return text

    def wait_for_exit(self, seconds: float = TIMEOUT_SECONDS) -> int:
        """Wait until the program ends; returns its exit status."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self._read(0.1):
            pass
        return self.process.wait(max(0.1, until - time.monotonic()))

    def text(self) -> str:
        """The lines on and above the screen."""
        columns = range(self._screen.columns)
        above = ["".join(line[x].data for x in columns) for line in self._screen.history.top]
        return "\n".join(line.rstrip() for line in [*above, *self._screen.display]).rstrip()

    def colours(self, word: str) -> set[str]:
        """The colours (RRGGBB, or a name) in which the characters of `word` stand on the screen."""
        for y, line in enumerate(self._screen.display):
            x = line.find(word)
            if x >= 0:
                return {self._screen.buffer[y][i].fg for i in range(x, x + len(word))}
        raise AssertionError(f"{word!r} is not on the screen:\n{self.text()}")

    def _read(self, seconds: float) -> bool:
        """Take in what the program wrote; False when it has closed the terminal."""
        if select.select([self._fd], [], [], seconds)[0]:
            try:
                data = os.read(self._fd, 65536)
            except OSError:  # Linux says EIO when the last program has gone
                return False
            if not data:
                return False
            self.raw += data
            self._stream.feed(data)
        return True
