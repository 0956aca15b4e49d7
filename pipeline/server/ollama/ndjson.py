"""How Ollama's API speaks: JSON bodies of any content type, NDJSON streams, errors as {"error"}."""

from __future__ import annotations

import asyncio
import json
import queue
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from reellama.pipeline.server.admission.fair_thread_pool import FairThreadPool
from reellama.pipeline.server.client_errors import status_and_message
from reellama.pipeline.server.disconnects import CLIENT_CLOSED_REQUEST, cancel_on_disconnect

JsonItem = dict[str, Any]
ItemCallback = Callable[[JsonItem], None]


class OllamaRoute(APIRoute):
    """A route whose errors for people are answered as Ollama answers them."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except ClientDisconnect:
                return Response(status_code=CLIENT_CLOSED_REQUEST)
            except HTTPException:
                raise
            except Exception as error:  # noqa: BLE001  # whatever it is, it is told and logged
                status, message = status_and_message(error)
                return JSONResponse({"error": message}, status, getattr(error, "headers", None))

        return answer


async def stream(request: Request, items: AsyncGenerator[JsonItem, None]) -> Response:
    """The items, a line each. An error before the first one is raised, a later one is a line."""
    try:
        first = await cancel_on_disconnect(request, anext(items))
    except BaseException:
        await items.aclose()
        raise

    async def lines() -> AsyncIterator[bytes]:
        async with aclosing(items):
            yield _line(first)
            try:
                async for item in items:
                    yield _line(item)
            except Exception as error:  # noqa: BLE001  # the status is long sent
                yield _line({"error": status_and_message(error)[1]})

    return StreamingResponse(lines(), media_type="application/x-ndjson")


async def gather_items(request: Request, items: AsyncGenerator[JsonItem, None]) -> list[JsonItem]:
    """All the items."""

    async def collect() -> list[JsonItem]:
        async with aclosing(items):
            return [item async for item in items]

    return await cancel_on_disconnect(request, collect())


async def progress_items(
    threads: FairThreadPool, work: Callable[[ItemCallback], None]
) -> AsyncGenerator[JsonItem, None]:
    """What `work` tells while it runs in one of these threads; its error is raised at the end.

    A client that goes away does not stop it: what it does is whole or can be taken up again.
    """
    items: queue.SimpleQueue[JsonItem] = queue.SimpleQueue()
    has_news = asyncio.Event()
    loop = asyncio.get_running_loop()

    def tell(item: JsonItem) -> None:
        items.put(item)
        loop.call_soon_threadsafe(has_news.set)

    task = asyncio.ensure_future(threads.run(lambda: work(tell)))
    task.add_done_callback(lambda _: has_news.set())
    while not (task.done() and items.empty()):
        await has_news.wait()
        has_news.clear()
        while not items.empty():
            yield items.get()
        if task.done():
            has_news.set()
    await task


async def answer_progress(
    request: Request, work: Callable[[ItemCallback], None], streams: bool
) -> Response:
    """What `work` tells as a stream, or only the last of it."""
    items = progress_items(request.app.state.transfers, work)
    if streams:
        return await stream(request, items)
    return JSONResponse((await gather_items(request, items))[-1])


def _line(item: JsonItem) -> bytes:
    return json.dumps(item, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
