"""Threads of their own for work that takes long: who asks for little never waits for one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from reellama.pipeline.server.admission.fair_semaphore import FairSemaphore

T = TypeVar("T")


class WorkThreads:
    """`n` threads, `max_each` of them for one client at most.

    Whose work is next is decided by a FairSemaphore.
    """

    def __init__(self, name: str, n: int = 1, max_each: int | None = None) -> None:
        self._threads = ThreadPoolExecutor(n, name)
        self._semaphore = FairSemaphore(n, max_each)

    async def run(self, work: Callable[[], T]) -> T:
        """The outcome of `work` in one of the threads."""
        async with self._semaphore.acquire():
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        """End the threads after what they are doing; what waits is cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)
