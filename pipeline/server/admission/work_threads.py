"""Threads of their own for work that takes long: who asks for little never waits for one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class WorkThreads:
    """`n` threads; what waits for one comes in the order in which it was asked for."""

    def __init__(self, name: str, n: int = 1) -> None:
        self._threads = ThreadPoolExecutor(n, name)

    async def run(self, work: Callable[[], T]) -> T:
        """The outcome of `work` in one of them."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        """End them after what they are doing; what waits is cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)
