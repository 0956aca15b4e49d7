"""Who may ask, and how much they may send: checked before anything is read or loaded.

A page in a browser may reach a server on the same machine, under the name of its own host too (DNS
rebinding): so Host and Origin must be names of this machine, or ones that were allowed.
"""

from __future__ import annotations

import hmac
import json
import socket
import time
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from urllib.parse import urlsplit

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.server.chat.generation import closing_generations
from reellama.pipeline.server.client_errors import error_body, status_and_message
from reellama.pipeline.server.memory_trimmer import MemoryTrimmer
from reellama.pipeline.server.monitoring.logs import log
from reellama.pipeline.server.monitoring.metrics import Metrics
from reellama.pipeline.server.request_context import ANSWER_HEADERS, CLIENT, LOCAL
from reellama.pipeline.server.settings import Settings
from reellama.pipeline.server.timeouts import with_body_timeout

# Programs with a browser inside, which have no host.
APP_SCHEMES = ("app", "file", "tauri", "vscode-webview")
UNGUARDED_PATHS = ("/healthz",)  # tells nothing, and is asked by those who have no token
BLOBS = "/api/blobs/"  # whole models: they go to the disk piece by piece


class BodyTooLarge(ReellamaError):
    """A body with more bytes than are taken. `status` is HTTP's."""

    status = 413

    def __init__(self, limit: int) -> None:
        super().__init__(f"the request has more than {limit} bytes")


class AllowedHosts:
    """The host names by which the server may be called, and the pages that may call it."""

    def __init__(self, settings: Settings) -> None:
        self._names = {"localhost", socket.gethostname().lower(), settings.host.lower()}
        self._names |= {name.lower() for name in settings.allow_hosts}

    def allows_host(self, host: str) -> bool:
        """Whether a host is a name of this server. An address is no name that could be rebound."""
        return self._is_named(host) or _address(host) is not None

    def allows_origin(self, origin: str) -> bool:
        """Whether pages of an origin, `scheme://host:port`, may call and read the answer."""
        scheme, _, netloc = origin.partition("://")
        host = _host(netloc)
        address = _address(host)
        loopback = address is not None and address.is_loopback
        return scheme.lower() in APP_SCHEMES or self._is_named(host) or loopback

    def _is_named(self, host: str) -> bool:
        return host in self._names or host.endswith(".localhost")


class Cors(CORSMiddleware):
    """Lets a browser hand on what it is sent to those pages that the guard lets pass."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        super().__init__(app, allow_methods=["*"], allow_headers=["*"])
        self.hosts = AllowedHosts(settings)

    def is_allowed_origin(self, origin: str) -> bool:
        """The guard's rule."""
        return self.hosts.allows_origin(origin)


class Guard:
    """ASGI middleware: checks Host, Origin, the token and the size of the body; logs and counts."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self.hosts = AllowedHosts(settings)
        self.memory_trimmer = MemoryTrimmer()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with what is wrong."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        local = self._is_local(scope)
        CLIENT.set(LOCAL if local else (scope.get("client") or ("",))[0])
        own_headers: dict[str, str] = {}
        ANSWER_HEADERS.set(own_headers)
        started_at, status = time.perf_counter(), 499  # nobody waited for the response
        is_blob = scope["path"].startswith(BLOBS)
        body = LimitedBody(with_body_timeout(receive), None if is_blob else self.settings.max_body)

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), *map(_encoded, own_headers.items())]
                message = {**message, "headers": headers}
                self.metrics.count_request(_route(scope), status, time.perf_counter() - started_at)
            await send(message)

        try:
            if problem := self._problem(scope, local):
                await _refuse(scope, note, *problem)
            else:
                async with closing_generations():
                    await self.app(scope, body, note)
        except ClientDisconnect:
            pass
        except Exception as error:
            if status != 499:  # an answer has begun: it can only break off
                raise
            await _refuse(scope, note, *status_and_message(error))
        finally:
            self.memory_trimmer.note_body(0 if is_blob else body.size)
            seconds = round(time.perf_counter() - started_at, 4)
            fields = {"method": scope["method"], "path": scope["path"][:200], "status": status}
            log.info("request", extra={"fields": {**fields, "seconds": seconds}})
        return None

    def _is_local(self, scope: Scope) -> bool:
        """Whether it came by our Unix socket; an address of the network always has a port."""
        path = self.settings.local_socket
        return path is not None and tuple(scope.get("server") or ()) == (str(path), None)

    def _problem(self, scope: Scope, local: bool) -> tuple[int, str] | None:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = _host(headers.get(b"host", ""))
        # HTTP 1.0 has no Host, and no browser speaks it.
        needs_no_host = b"host" not in headers and scope["http_version"] == "1.0"
        if not (needs_no_host or self.hosts.allows_host(host)):
            return 403, "this name is not one of the server's; start it with --allow-host NAME"
        origin = headers.get(b"origin")
        if origin and not self.hosts.allows_origin(origin):
            return 403, "pages of this origin may not call; start the server with --allow-host NAME"
        token = self.settings.token
        open_to_all = local or scope["path"] in UNGUARDED_PATHS or scope["method"] == "OPTIONS"
        if token and not open_to_all:
            scheme, _, given = headers.get(b"authorization", "").partition(" ")
            if b"x-api-key" in headers:  # of Anthropic's clients
                scheme, given = "bearer", headers[b"x-api-key"]
            fits = hmac.compare_digest(given.strip().encode(), token.encode())
            if not fits or scheme.lower() != "bearer":
                return 401, "send the server's token as a bearer token, or as x-api-key"
        length = headers.get(b"content-length", "0")
        too_long = length.isdecimal() and int(length) > self.settings.max_body
        if too_long and not scope["path"].startswith(BLOBS):
            return (
                413,
                f"the request has {length} bytes; at most {self.settings.max_body} are taken",
            )
        return None


class LimitedBody:
    """A body as it is received, counted: chunks need not say beforehand how many will come.

    Raises BodyTooLarge beyond `limit` bytes, if there is one. `size`: bytes so far.
    """

    def __init__(self, receive: Receive, limit: int | None) -> None:
        self._receive, self._limit = receive, limit
        self.size = 0

    async def __call__(self) -> Message:
        """The next message."""
        message = await self._receive()
        self.size += len(message.get("body", b""))
        if self._limit is not None and self.size > self._limit:
            raise BodyTooLarge(self._limit)
        return message


def readable_dirs(settings: Settings) -> tuple[Path, ...]:
    """The folders in which the request that is answered may name files; all for our own user."""
    return (Path("/"),) if CLIENT.get() == LOCAL else settings.allow_dirs


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _host(netloc: str) -> str:
    """The host of "host:port", in small letters; "" for what is neither that nor "host"."""
    if any(letter in netloc for letter in "@/?#\\ "):
        return ""
    try:
        return (urlsplit(f"//{netloc}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _encoded(header: tuple[str, str]) -> tuple[bytes, bytes]:
    return header[0].encode(), header[1].encode()


def _route(scope: Scope) -> str:
    """The route's own path, which has no names of models in it."""
    return getattr(scope.get("route"), "path", "other")


async def _refuse(scope: Scope, send: Send, status: int, message: str) -> None:
    """An error in the shape of the protocol that the path belongs to."""
    body = json.dumps(error_body(scope["path"], status, message)).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    headers += [(b"content-length", str(len(body)).encode())]
    headers += [(b"www-authenticate", b"Bearer")] if status == 401 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
