"""Long loops that let other tasks of the event loop run in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

T = TypeVar("T")
N_BETWEEN_YIELDS = 100  # items


async def yielding_to_event_loop(items: Iterable[T]) -> AsyncIterator[T]:
    """Iterate, and give control to the event loop after every 100 items."""
    for i, item in enumerate(items, 1):
        yield item
        if i % N_BETWEEN_YIELDS == 0:
            await asyncio.sleep(0)
