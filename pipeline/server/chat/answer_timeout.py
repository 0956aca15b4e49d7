"""The time limit of an answer, waiting included (`Settings.answer_seconds`)."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

import anyio

from reellama.gguf_tools.errors import ReellamaError

T = TypeVar("T")


class AnswerTimeout(ReellamaError):
    """An answer that took too long. `status` is HTTP's."""

    status = 504

    def __init__(self, seconds: float) -> None:
        super().__init__(f"this answer took more than {seconds:g} s, with waiting: ask for less")


async def with_timeout(awaitable: Awaitable[T], seconds: float) -> T:
    """Await for at most `seconds`; then the awaitable is cancelled and AnswerTimeout raised."""
    try:
        # Not asyncio.wait_for: before Python 3.12 it loses a cancellation that comes just as the
        # awaitable is done.
        with anyio.fail_after(seconds):
            return await awaitable
    except TimeoutError:
        raise AnswerTimeout(seconds) from None
