"""Progress bars and spinners of rich that Ctrl-C does not leave half drawn, or half taken away.

A dumb terminal, in which nothing can be taken away, gets none.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.progress import Progress, TaskID
from rich.status import Status

if TYPE_CHECKING:
    from types import FrameType


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let Ctrl-C wait: where it interrupts rich as it draws, rich holds back all that follows."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    came: list[FrameType | None] = []
    signal.signal(signal.SIGINT, lambda _, frame: came.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        before(signal.SIGINT, came[0])


class Bars(Progress):
    """Progress bars that Ctrl-C ends cleanly, whenever it comes."""

    def start(self) -> None:
        """Begin to draw."""
        if self.console.is_dumb_terminal:
            return
        try:
            with _undisturbed():
                super().start()
        except KeyboardInterrupt:  # no `with` has begun that would end it
            self.stop()
            raise

    def add_task(self, description: str, **settings: Any) -> TaskID:  # type: ignore[override]
        """Add a bar, and draw it."""
        with _undisturbed():
            return super().add_task(description, **settings)

    def stop(self) -> None:
        """Take the bars away."""
        if self.console.is_dumb_terminal:
            return
        with _undisturbed():
            super().stop()


class Spinner(Status):
    """A spinner beside a text, for what takes nobody knows how long."""

    def start(self) -> None:
        """Begin to draw."""
        if self.console.is_dumb_terminal:
            return
        try:
            with _undisturbed():
                super().start()
        except KeyboardInterrupt:  # no `with` has begun that would end it
            self.stop()
            raise

    def stop(self) -> None:
        """Take the spinner away."""
        with _undisturbed():
            super().stop()
