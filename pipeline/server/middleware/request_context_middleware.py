"""Sets the context variables of `request_context` for each request."""

from __future__ import annotations

from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reellama.pipeline.server.request_context import ANSWER_HEADERS, CLIENT, LOCAL


class RequestContextMiddleware:
    """Sets CLIENT, and sends the headers that `add_header` collects with the response."""

    def __init__(self, app: ASGIApp, local_socket: Path | None) -> None:
        self.app, self.local_socket = app, local_socket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its context variables set."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        CLIENT.set(LOCAL if self._is_local(scope) else (scope.get("client") or ("",))[0])
        answer_headers: dict[str, str] = {}
        ANSWER_HEADERS.set(answer_headers)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message.setdefault("headers", [])
                headers = MutableHeaders(scope=message)
                for name, value in answer_headers.items():
                    headers.append(name, value)
            await send(message)

        return await self.app(scope, receive, send_with_headers)

    def _is_local(self, scope: Scope) -> bool:
        """Whether the request came by our Unix socket: addresses of the network have a port."""
        path = self.local_socket
        return path is not None and tuple(scope.get("server") or ()) == (str(path), None)
