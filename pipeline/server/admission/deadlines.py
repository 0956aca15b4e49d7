"""How long an answer may take."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

import anyio

from reellama.gguf_tools.errors import ReellamaError

T = TypeVar("T")


class TimedOut(ReellamaError):
    """An answer that took too long. `status` is HTTP's."""

    status = 504

    def __init__(self, seconds: float) -> None:
        super().__init__(f"this answer took more than {seconds:g} s, with waiting: ask for less")


async def in_seconds(work: Awaitable[T], seconds: float | None) -> T:
    """The outcome of `work`, which is cancelled when it takes longer. Raises TimedOut then."""
    try:
        # Not asyncio.wait_for: before Python 3.12 that goes on where it is cancelled just as the
        # work is done.
        with anyio.fail_after(seconds):
            return await work
    except TimeoutError:
        raise TimedOut(seconds or 0.0) from None
