"""A semaphore that is fair to clients: one that asks for much waits for itself."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from reellama.pipeline.server.request_context import CLIENT

MIN_SECONDS = 0.001  # that every permit counts for


@dataclass
class Permit:
    """A client's permit. `seconds`: what it counts for; None: the time for which it was held."""

    client: str
    seconds: float | None = None


class FairSemaphore:
    """`n` permits at once. The next goes to the client with the fewest, then with the least time.

    max_each: permits of one client at once. Belongs to one event loop.
    """

    def __init__(self, n: int, max_each: int | None = None) -> None:
        self._n, self._max_each = n, max_each or n
        self._waiting: dict[asyncio.Future[None], str] = {}
        self._n_held: Counter[str] = Counter()  # by client
        self._seconds: defaultdict[str, float] = defaultdict(float)  # by client

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Permit]:
        """Hold a permit of CLIENT, as soon as there is one."""
        permit = Permit(CLIENT.get())
        await self._wait(permit.client)
        started_at = time.monotonic()
        try:
            yield permit
        finally:
            seconds = time.monotonic() - started_at if permit.seconds is None else permit.seconds
            self._release(permit.client, seconds)

    async def _wait(self, client: str) -> None:
        here = {*self._waiting.values(), *+self._n_held}
        if not here:
            self._seconds.clear()
        elif client not in here:  # time without requests is no credit
            fewest = min(self._seconds[other] for other in here)
            self._seconds[client] = max(self._seconds[client], fewest)
        granted = asyncio.get_running_loop().create_future()
        self._waiting[granted] = client
        self._grant()
        try:
            await granted
        except asyncio.CancelledError:
            if self._waiting.pop(granted, None) is None:  # it was just granted
                self._release(client, 0.0)
            raise

    def _release(self, client: str, seconds: float) -> None:
        self._n_held[client] -= 1
        self._seconds[client] += max(seconds, MIN_SECONDS)
        self._grant()

    def _grant(self) -> None:
        """Give the permits that are free."""
        while self._n_held.total() < self._n:
            able = [
                granted
                for granted, client in self._waiting.items()
                # One that was cancelled stands here until its task runs again.
                if not granted.done() and self._n_held[client] < self._max_each
            ]
            if not able:
                return
            first = min(able, key=lambda granted: self._rank(self._waiting[granted]))
            self._n_held[self._waiting.pop(first)] += 1
            first.set_result(None)

    def _rank(self, client: str) -> tuple[int, float]:
        return self._n_held[client], self._seconds[client]
