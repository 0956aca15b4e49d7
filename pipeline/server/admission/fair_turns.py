"""Turns at work of which few pieces are done at a time: who asks for much waits for itself."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from reellama.pipeline.server.admission.places import CLIENT

LEAST = 0.001  # seconds that a turn counts for at least


@dataclass
class FairTurn:
    """A client's turn; `seconds` is what it counts for, the clock's where that is None."""

    client: str
    seconds: float | None = None


class FairTurns:
    """`n` turns at once. The next is that of the client with the fewest now, then the least so far.

    most_each: turns of one client at once. Belongs to one event loop.
    """

    def __init__(self, n: int, most_each: int | None = None) -> None:
        self._n, self._most_each = n, most_each or n
        self._waiting: dict[asyncio.Future[None], str] = {}
        self._now: Counter[str] = Counter()
        self._had: defaultdict[str, float] = defaultdict(float)  # seconds, by client

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[FairTurn]:
        """A turn for CLIENT, as soon as it has one."""
        turn = FairTurn(CLIENT.get())
        await self._begin(turn.client)
        begin = time.monotonic()
        try:
            yield turn
        finally:
            seconds = time.monotonic() - begin if turn.seconds is None else turn.seconds
            self._end(turn.client, seconds)

    async def _begin(self, client: str) -> None:
        here = {*self._waiting.values(), *+self._now}
        if not here:
            self._had.clear()
        elif client not in here:  # nobody saves up turns by asking for none
            self._had[client] = max(self._had[client], min(self._had[each] for each in here))
        told = asyncio.get_running_loop().create_future()
        self._waiting[told] = client
        self._wake()
        try:
            await told
        except asyncio.CancelledError:
            if self._waiting.pop(told, None) is None:  # it has just been told
                self._end(client, 0.0)
            raise

    def _end(self, client: str, seconds: float) -> None:
        self._now[client] -= 1
        self._had[client] += max(seconds, LEAST)
        self._wake()

    def _wake(self) -> None:
        """Begin the turns that there is room for."""
        while self._now.total() < self._n:
            able = [
                told
                for told, client in self._waiting.items()
                # One that was cancelled stands here until its task runs again.
                if not told.done() and self._now[client] < self._most_each
            ]
            if not able:
                return
            first = min(able, key=lambda told: self._rank(self._waiting[told]))
            self._now[self._waiting.pop(first)] += 1
            first.set_result(None)

    def _rank(self, client: str) -> tuple[int, float]:
        return self._now[client], self._had[client]
