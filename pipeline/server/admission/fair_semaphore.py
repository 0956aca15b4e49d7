"""A semaphore that grants its permits fairly among clients."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from reellama.pipeline.server.request_context import CLIENT

MIN_SECONDS = 0.001  # charged for every permit


@dataclass
class Permit:
    """A client's permit. `seconds`: the time charged for it; None: as long as it was held."""

    client: str
    seconds: float | None = None


class FairSemaphore:
    """Permits of which the next goes to the client with the fewest, then with the least time.

    n_permits: permits at once; max_per_client: those of one client. Belongs to one event loop.
    """

    def __init__(self, n_permits: int, max_per_client: int | None = None) -> None:
        self._n_permits, self._max_per_client = n_permits, max_per_client or n_permits
        self._waiting: dict[asyncio.Future[None], str] = {}
        self._n_held: Counter[str] = Counter()  # by client
        self._seconds: defaultdict[str, float] = defaultdict(float)  # by client

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Permit]:
        """Wait for a permit for CLIENT, and hold it."""
        permit = Permit(CLIENT.get())
        await self._wait(permit.client)
        started_at = time.monotonic()
        try:
            yield permit
        finally:
            seconds = time.monotonic() - started_at if permit.seconds is None else permit.seconds
            self._release(permit.client, seconds)

    async def _wait(self, client: str) -> None:
        active = {*self._waiting.values(), *+self._n_held}
        if not active:
            self._seconds.clear()
        elif client not in active:  # time without requests is no credit
            min_seconds = min(self._seconds[other] for other in active)
            self._seconds[client] = max(self._seconds[client], min_seconds)
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
        """Grant the free permits."""
        while self._n_held.total() < self._n_permits:
            eligible = [
                granted
                for granted, client in self._waiting.items()
                # A cancelled future stays in the dict until its task runs again.
                if not granted.done() and self._n_held[client] < self._max_per_client
            ]
            if not eligible:
                return
            first = min(eligible, key=lambda granted: self._rank(self._waiting[granted]))
            self._n_held[self._waiting.pop(first)] += 1
            first.set_result(None)

    def _rank(self, client: str) -> tuple[int, float]:
        return self._n_held[client], self._seconds[client]
