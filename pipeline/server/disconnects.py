"""Cancels the work for a client that disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

T = TypeVar("T")
CLIENT_CLOSED_REQUEST = 499  # nginx's status for requests whose client has disconnected


async def cancel_on_disconnect(request: Request, awaitable: Awaitable[T]) -> T:
    """Await a result; if the client disconnects, cancel the awaitable and raise ClientDisconnect.

    The request's body must have been read.
    """
    task = asyncio.ensure_future(awaitable)
    disconnect = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait({task, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        disconnect.cancel()
        if not task.done():
            task.cancel()
        await asyncio.gather(task, disconnect, return_exceptions=True)
        # A task refers to its exception, and the exception's traceback to this frame. With this
        # cycle, all that the request holds would stay in memory until garbage is collected.
        del task, disconnect


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
