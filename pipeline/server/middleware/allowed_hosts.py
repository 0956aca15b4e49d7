"""The host names by which the server may be called, and the origins whose pages may call it.

A page in a browser can reach a server on the same machine, and under the name of the page's own
host too (DNS rebinding). So Host and Origin must name this machine, or a host that was allowed.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

# Origins of programs that embed a browser; they have no host.
APP_SCHEMES = ("app", "file", "tauri", "vscode-webview")


class AllowedHosts:
    """Names of this machine, the host that the server listens on, and the names of `allowed`."""

    def __init__(self, host: str, allowed: Iterable[str]) -> None:
        self._names = {"localhost", socket.gethostname().lower(), host.lower()}
        self._names |= {name.lower() for name in allowed}

    def allows_host(self, netloc: str) -> bool:
        """Whether a Host header, "host:port", is allowed. DNS cannot rebind an IP address."""
        host = _host(netloc)
        return self._is_named(host) or _address(host) is not None

    def allows_origin(self, origin: str) -> bool:
        """Whether pages of an origin, "scheme://host:port", may call and read the response."""
        scheme, _, netloc = origin.partition("://")
        host = _host(netloc)
        address = _address(host)
        loopback = address is not None and address.is_loopback
        return scheme.lower() in APP_SCHEMES or self._is_named(host) or loopback

    def _is_named(self, host: str) -> bool:
        return host in self._names or host.endswith(".localhost")


class AllowedOriginsMiddleware(CORSMiddleware):
    """CORS headers for the origins that `AllowedHosts` allows."""

    def __init__(self, app: ASGIApp, hosts: AllowedHosts) -> None:
        super().__init__(app, allow_methods=["*"], allow_headers=["*"])
        self.hosts = hosts

    def is_allowed_origin(self, origin: str) -> bool:
        """Whether responses to this origin get CORS headers."""
        return self.hosts.allows_origin(origin)


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _host(netloc: str) -> str:
    """The host of "host:port" or "host" in lower case, or "" if `netloc` is neither."""
    if any(letter in netloc for letter in "@/?#\\ "):
        return ""
    try:
        return (urlsplit(f"//{netloc}").hostname or "").rstrip(".")
    except ValueError:
        return ""
