"""Who may send requests: checks Host, Origin and the token before a body is read."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.server.middleware.allowed_hosts import AllowedHosts
from reellama.pipeline.server.request_context import CLIENT, LOCAL

PUBLIC_PATHS = ("/healthz",)  # health checks have no token, and the reply reveals nothing


class AccessDenied(ReellamaError):
    """A request that this client or page may not send. `status` is HTTP's."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class AccessControlMiddleware:
    """Raises AccessDenied for a host or origin that is not allowed, or a wrong token."""

    def __init__(self, app: ASGIApp, hosts: AllowedHosts, token: str | None) -> None:
        self.app, self.hosts, self.token = app, hosts, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the headers, then pass the request on."""
        if scope["type"] == "http":
            headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
            self._check_host_and_origin(headers, scope["http_version"])
            needs_token = scope["path"] not in PUBLIC_PATHS and scope["method"] != "OPTIONS"
            if self.token and needs_token and CLIENT.get() != LOCAL:
                _check_token(headers, self.token)
        await self.app(scope, receive, send)

    def _check_host_and_origin(self, headers: Mapping[bytes, str], http_version: str) -> None:
        # HTTP 1.0 has no Host header, and no browser speaks HTTP 1.0.
        needs_host = b"host" in headers or http_version != "1.0"
        if needs_host and not self.hosts.allows_host(headers.get(b"host", "")):
            raise AccessDenied(
                "this name is not one of the server's; start it with --allow-host NAME", 403
            )
        origin = headers.get(b"origin")
        if origin and not self.hosts.allows_origin(origin):
            raise AccessDenied(
                "pages of this origin may not call; start the server with --allow-host NAME", 403
            )


def _check_token(headers: Mapping[bytes, str], token: str) -> None:
    scheme, _, credentials = headers.get(b"authorization", "").partition(" ")
    if b"x-api-key" in headers:  # of Anthropic's clients
        scheme, credentials = "bearer", headers[b"x-api-key"]
    is_equal = hmac.compare_digest(credentials.strip().encode(), token.encode())
    if not is_equal or scheme.lower() != "bearer":
        raise AccessDenied("send the server's token as a bearer token, or as x-api-key", 401)
