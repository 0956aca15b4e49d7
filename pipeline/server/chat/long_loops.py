"""Long loops in the event loop, in which others go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

T = TypeVar("T")
N_AT_ONCE = 100


async def by_turns(items: Iterable[T]) -> AsyncIterator[T]:
    """The items. After every hundred whatever else waits has a turn."""
    for i, item in enumerate(items, 1):
        yield item
        if i % N_AT_ONCE == 0:
            await asyncio.sleep(0)
