"""Closes the generations that a request leaves open."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from reellama.pipeline.server.chat.generation import REQUEST_GENERATIONS, Generation


class GenerationCleanupMiddleware:
    """Closes each generation that a request has begun and not closed.

    A generation that begins just as its client disconnects has no owner: the task that would take
    it was cancelled.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, then close its generations."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        generations: list[Generation] = []
        REQUEST_GENERATIONS.set(generations)
        try:
            return await self.app(scope, receive, send)
        finally:
            while generations:
                await generations.pop().aclose()
