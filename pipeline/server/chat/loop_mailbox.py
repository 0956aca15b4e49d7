"""Batched `call_soon_threadsafe`: other threads call functions in an event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, ref


class LoopMailbox:
    """Collects calls of other threads; the loop wakes up once for all that have come."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = ref(loop)
        self._calls: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._is_scheduled = False

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> LoopMailbox:
        """The mailbox of a loop. Called in the loop."""
        return _MAILBOXES.setdefault(loop, cls(loop))

    def put(self, function: Callable[[Any], None], argument: Any) -> None:
        """Call `function(argument)` in the loop. Raises RuntimeError if the loop was closed."""
        self._calls.append((function, argument))
        if not self._is_scheduled:
            self._is_scheduled = True
            try:
                if (loop := self._loop()) is None:
                    raise RuntimeError("the event loop is gone")
                loop.call_soon_threadsafe(self._run_calls)
            except RuntimeError:
                self._is_scheduled = False
                raise

    def _run_calls(self) -> None:
        self._is_scheduled = False  # calls that come from now on schedule another run
        while self._calls:
            function, argument = self._calls.popleft()
            function(argument)


_MAILBOXES: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopMailbox] = WeakKeyDictionary()
