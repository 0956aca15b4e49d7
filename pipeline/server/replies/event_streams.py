"""Answers as server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class Closable(Protocol):
    """An answer that can be ended."""

    async def aclose(self) -> None:
        """End the answer."""


Event = TypeVar("Event")
Answer = TypeVar("Answer", bound=Closable)


class EventStream(StreamingResponse):
    """Server-sent events of an answer, which ends with the response, however that ends."""

    def __init__(self, answer: Closable, events: AsyncIterator[str]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self.headers["Cache-Control"] = "no-cache"
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._answer.aclose()


def sse_event(data: dict[str, Any], name: str | None = None) -> str:
    """One server-sent event, under a name where the protocol gives its events names."""
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {json.dumps(data, ensure_ascii=False)}\n\n"


async def start_stream(
    work: Coroutine[Any, Any, Answer],
    events_of: Callable[[Answer], AsyncGenerator[Event, None]],
) -> tuple[Answer, AsyncIterator[Event]]:
    """An answer and its events. The first is awaited: an error before it keeps its HTTP status."""
    answer = await work
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
