"""A thread pool whose threads are shared fairly among clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from reellama.pipeline.server.admission.fair_semaphore import FairSemaphore

T = TypeVar("T")


class FairThreadPool:
    """`n_threads` threads for one kind of slow work, so that it never delays another kind.

    max_per_client: threads of one client at once. A FairSemaphore decides who is next.
    """

    def __init__(self, name: str, n_threads: int = 1, max_per_client: int | None = None) -> None:
        self._executor = ThreadPoolExecutor(n_threads, name)
        self._semaphore = FairSemaphore(n_threads, max_per_client)

    async def run(self, function: Callable[[], T]) -> T:
        """Call a function in one of the threads."""
        async with self._semaphore.acquire():
            return await asyncio.get_running_loop().run_in_executor(self._executor, function)

    def close(self) -> None:
        """Let running calls end, and cancel those that wait."""
        self._executor.shutdown(wait=False, cancel_futures=True)
