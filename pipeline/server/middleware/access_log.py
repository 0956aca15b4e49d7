"""The access log: a line for each request, which is also counted in the metrics."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reellama.pipeline.server.disconnects import CLIENT_CLOSED_REQUEST
from reellama.pipeline.server.monitoring.logs import log
from reellama.pipeline.server.monitoring.metrics import Metrics

MAX_PATH_CHARACTERS = 200  # in a line of the log


class AccessLogMiddleware:
    """Logs method, path, status and duration, and counts the time until the response began."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and log it when it has ended."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started_at, status = time.perf_counter(), CLIENT_CLOSED_REQUEST

        async def send_and_count(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self.metrics.count_request(_route(scope), status, time.perf_counter() - started_at)
            await send(message)

        try:
            await self.app(scope, receive, send_and_count)
        finally:
            fields = {
                "method": scope["method"],
                "path": scope["path"][:MAX_PATH_CHARACTERS],
                "status": status,
                "seconds": round(time.perf_counter() - started_at, 4),
            }
            log.info("request", extra={"fields": fields})
        return None


def _route(scope: Scope) -> str:
    """The path template of the route: the paths themselves would be a label for each model."""
    return getattr(scope.get("route"), "path", "other")
