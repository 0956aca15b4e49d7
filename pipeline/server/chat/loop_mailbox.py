"""A mailbox through which other threads call functions in an event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, ref


class LoopMailbox:
    """Takes messages of other threads; the loop wakes up once for all that have come."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = ref(loop)
        self._messages: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._wakes = False

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> LoopMailbox:
        """The mailbox of a loop. Called in the loop."""
        return _MAILBOXES.setdefault(loop, cls(loop))

    def put(self, take: Callable[[Any], None], message: Any) -> None:
        """Have the loop call `take(message)`. Raises RuntimeError for a loop that was closed."""
        self._messages.append((take, message))
        if not self._wakes:
            self._wakes = True
            try:
                if (loop := self._loop()) is None:
                    raise RuntimeError("the event loop is gone")
                loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                self._wakes = False
                raise

    def _deliver(self) -> None:
        self._wakes = False  # what comes from now on wakes the loop again
        while self._messages:
            take, message = self._messages.popleft()
            take(message)


_MAILBOXES: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopMailbox] = WeakKeyDictionary()
