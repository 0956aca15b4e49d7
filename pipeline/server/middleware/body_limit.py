"""Limits of a request's body: its bytes, and the time until its next piece."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.server.memory_trimmer import MemoryTrimmer

BODY_SECONDS = 30.0  # until the next piece of a body
BLOBS = "/api/blobs/"  # bodies here are whole models, which are written to disk piece by piece


class BodyTooLarge(ReellamaError):
    """A body with more bytes than are taken. `status` is HTTP's."""

    status = 413


class BodyTooSlow(ReellamaError):
    """A body whose next piece did not come in time. `status` is HTTP's."""

    status = 408

    def __init__(self) -> None:
        super().__init__("the rest of the request did not come in time")


class BodyLimitMiddleware:
    """Raises BodyTooLarge or BodyTooSlow. A blob may have any size."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes
        self.memory_trimmer = MemoryTrimmer()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a `receive` that keeps the limits."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if scope["path"].startswith(BLOBS):
            return await self.app(scope, LimitedBody(receive, None), send)
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdecimal() and int(length) > self.max_bytes:
            raise BodyTooLarge(
                f"the request has {length} bytes; at most {self.max_bytes} are taken"
            )
        body = LimitedBody(receive, self.max_bytes)
        try:
            return await self.app(scope, body, send)
        finally:
            self.memory_trimmer.note_body(body.size)


class LimitedBody:
    """An ASGI `receive` that counts the body's bytes: chunks do not say how many will come.

    Raises BodyTooLarge beyond `max_bytes`, if there is a limit, and BodyTooSlow when the next piece
    does not come within BODY_SECONDS. `size`: bytes so far.
    """

    def __init__(self, receive: Receive, max_bytes: int | None) -> None:
        self._receive, self._max_bytes = receive, max_bytes
        self._is_complete = False
        self.size = 0

    async def __call__(self) -> Message:
        """The next message."""
        if self._is_complete:  # only a disconnect can follow, at any time
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), BODY_SECONDS)
        except asyncio.TimeoutError:
            raise BodyTooSlow from None
        self._is_complete = not message.get("more_body", False)
        self.size += len(message.get("body", b""))
        if self._max_bytes is not None and self.size > self._max_bytes:
            raise BodyTooLarge(f"the request has more than {self._max_bytes} bytes")
        return message
