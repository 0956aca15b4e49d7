"""Answers streamed as server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class Closable(Protocol):
    """An answer whose generation can be ended."""

    async def aclose(self) -> None:
        """End the generation."""


Event = TypeVar("Event")
Answer = TypeVar("Answer", bound=Closable)


class EventStream(StreamingResponse):
    """A response of server-sent events, which closes its answer however the response ends."""

    def __init__(self, answer: Closable, events: AsyncIterator[str]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self.headers["Cache-Control"] = "no-cache"
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, then close the answer."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._answer.aclose()


def sse_event(data: dict[str, Any], name: str | None = None) -> str:
    """One server-sent event, with a name in protocols that name their events."""
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {json.dumps(data, ensure_ascii=False)}\n\n"


async def start_stream(
    answering: Coroutine[Any, Any, Answer],
    events_of: Callable[[Answer], AsyncGenerator[Event, None]],
) -> tuple[Answer, AsyncIterator[Event]]:
    """Await an answer and its first event, so that an error before it can still set the status."""
    answer = await answering
    try:
        events = events_of(answer)
        first = await anext(events)
    except BaseException:
        await answer.aclose()
        raise

    async def all_events() -> AsyncIterator[Event]:
        yield first
        async for event in events:
            yield event

    return answer, all_events()
