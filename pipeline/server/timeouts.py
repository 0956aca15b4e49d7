"""Time limits: of a request that is sent slowly, of an answer, and of the server's own end."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Awaitable
from typing import Any, TypeVar

import anyio
import uvicorn
from starlette.types import Message, Receive
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.server.monitoring.logs import log

T = TypeVar("T")
HEADER_SECONDS = 15.0  # for the head of a request
BODY_SECONDS = 30.0  # until the next piece of a body
ENDING_SECONDS = 3  # that the server waits for answers at its end
CLOSING_SECONDS = 1.5  # that those which are then cancelled may take


class TimedOut(ReellamaError):
    """An answer that took too long. `status` is HTTP's."""

    status = 504

    def __init__(self, seconds: float) -> None:
        super().__init__(f"this answer took more than {seconds:g} s, with waiting: ask for less")


async def with_timeout(work: Awaitable[T], seconds: float | None) -> T:
    """The outcome of `work`, which is cancelled when it takes longer. Raises TimedOut then."""
    try:
        # Not asyncio.wait_for: before Python 3.12 that goes on where it is cancelled just as the
        # work is done.
        with anyio.fail_after(seconds):
            return await work
    except TimeoutError:
        raise TimedOut(seconds or 0.0) from None


class BodyTooSlow(ReellamaError):
    """A body whose next piece did not come in time. `status` is HTTP's."""

    status = 408

    def __init__(self) -> None:
        super().__init__("the rest of the request did not come in time")


def with_body_timeout(receive: Receive) -> Receive:
    """`receive`, which raises BodyTooSlow while a body is on its way and does not come."""
    more = True

    async def timely() -> Message:
        nonlocal more
        if not more:  # what is waited for now is that the client leaves
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), BODY_SECONDS)
        except asyncio.TimeoutError:
            raise BodyTooSlow from None
        more = bool(message.get("more_body", False))
        return message

    return timely


class TimelyProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """HTTP whose connections are closed when no whole head of a request comes in time."""

    def connection_made(self, transport: Any) -> None:
        """Begin to look at the connection now and then."""
        super().connection_made(transport)
        self._seen: Any = self  # the request that was last answered at the look before this one
        self._look = self.loop.call_later(HEADER_SECONDS / 2, self._close_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no more."""
        self._look.cancel()
        super().connection_lost(exc)

    def _close_if_idle(self) -> None:
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self.cycle is self._seen:
            self.transport.close()
            return
        self._seen = self.cycle if idle else self
        self._look = self.loop.call_later(HEADER_SECONDS / 2, self._close_if_idle)


class TimelyServer(uvicorn.Server):
    """A server whose process is gone soon after SIGTERM, whatever llama.cpp or torch compute.

    Neither can be interrupted: reading a piece of a prompt takes a large model half a minute.
    """

    status = 0  # the exit status of a process that does not end orderly

    def fail(self) -> None:
        """End, for nothing can be answered any more. From any thread."""
        self.status, self.should_exit = 1, True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End orderly, or without what goes on."""
        end = threading.Timer(ENDING_SECONDS + CLOSING_SECONDS, self._end_process)
        end.daemon = True
        end.start()
        await super().shutdown(sockets)

    def _end_process(self) -> None:
        log.warning("the server ends in the middle of a computation")
        os._exit(self.status)


def uvicorn_config(app: Any, **options: Any) -> uvicorn.Config:
    """How uvicorn serves the app."""
    return uvicorn.Config(
        app, http=TimelyProtocol, timeout_graceful_shutdown=ENDING_SECONDS, **options
    )
