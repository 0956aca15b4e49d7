"""Replies of Ollama's API: NDJSON streams, and errors as {"error": ...}."""

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
    """A route whose errors have Ollama's shape."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await handle(request)
            except ClientDisconnect:
                return Response(status_code=CLIENT_CLOSED_REQUEST)
            except HTTPException:
                raise
            except Exception as error:  # noqa: BLE001  # any error is logged and answered
                status, message = status_and_message(error)
                return JSONResponse({"error": message}, status, getattr(error, "headers", None))

        return handler


async def stream(request: Request, items: AsyncGenerator[JsonItem, None]) -> Response:
    """Stream items as lines. An error before the first item is raised; a later one is a line."""
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
            except Exception as error:  # noqa: BLE001  # the status was sent already
                yield _line({"error": status_and_message(error)[1]})

    return StreamingResponse(lines(), media_type="application/x-ndjson")


async def gather_items(request: Request, items: AsyncGenerator[JsonItem, None]) -> list[JsonItem]:
    """All items of a stream."""

    async def collect() -> list[JsonItem]:
        async with aclosing(items):
            return [item async for item in items]

    return await cancel_on_disconnect(request, collect())


async def progress_items(
    thread_pool: FairThreadPool, run: Callable[[ItemCallback], None]
) -> AsyncGenerator[JsonItem, None]:
    """The items that a function reports while it runs in a thread; its error is raised at the end.

    A disconnect does not stop the function, whose effects are atomic or can be resumed.
    """
    items: queue.SimpleQueue[JsonItem] = queue.SimpleQueue()
    updated = asyncio.Event()
    loop = asyncio.get_running_loop()

    def report(item: JsonItem) -> None:
        items.put(item)
        loop.call_soon_threadsafe(updated.set)

    task = asyncio.ensure_future(thread_pool.run(lambda: run(report)))
    task.add_done_callback(lambda _: updated.set())
    while not (task.done() and items.empty()):
        await updated.wait()
        updated.clear()
        while not items.empty():
            yield items.get()
        if task.done():
            updated.set()
    await task


async def answer_progress(
    request: Request, run: Callable[[ItemCallback], None], streams: bool
) -> Response:
    """Answer with all items that a function reports, or only the last one."""
    items = progress_items(request.app.state.transfers, run)
    if streams:
        return await stream(request, items)
    return JSONResponse((await gather_items(request, items))[-1])


def _line(item: JsonItem) -> bytes:
    return json.dumps(item, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
