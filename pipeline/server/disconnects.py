"""Clients that hang up: what is done for them ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

T = TypeVar("T")
CLIENT_CLOSED_REQUEST = 499  # the status of a response that nobody reads


async def cancel_on_disconnect(request: Request, work: Awaitable[T]) -> T:
    """The outcome of `work`, which is cancelled when the client goes away.

    Raises ClientDisconnect then. The request's body must have been read.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)
        # An error has this frame, and a task its error: all that the request holds would stay until
        # garbage is collected, with that of many others.
        del task, gone


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
