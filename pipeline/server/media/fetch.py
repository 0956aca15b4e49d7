"""Downloads media from hosts that the settings allow."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Collection
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

from reellama.pipeline.server.media.media_items import MediaError

if TYPE_CHECKING:
    import httpx

_MAX_REDIRECTS = 3
_PORTS = {"http": 80, "https": 443}
# NAT64 addresses contain the IPv4 address that a gateway connects to.
_NAT64 = IPv6Network("64:ff9b::/96")


async def fetch(
    url: str,
    allowed_hosts: Collection[str],
    max_bytes: int,
    seconds: float,
    *,
    allow_loopback: bool = False,
) -> bytes:
    """Download `url`, which must be of an allowed host ("example.org", "example.org:8080").

    Private, loopback, link-local and multicast addresses are refused, and the connection goes to
    the very address that was checked. Redirects are checked alike. `allow_loopback` permits
    loopback addresses. Raises MediaError: 403 for a URL that is not allowed, 413 for more than
    `max_bytes`, 400 for a download that fails or takes more than `seconds`.
    """
    try:
        return await asyncio.wait_for(
            _fetch(url, allowed_hosts, max_bytes, allow_loopback), seconds
        )
    except asyncio.TimeoutError:
        raise MediaError(f"the URL gave no whole answer within {seconds:g} s") from None


async def _fetch(
    text: str, allowed_hosts: Collection[str], max_bytes: int, allow_loopback: bool
) -> bytes:
    # In a thread, because reading the certificates takes a tenth of a second.
    ssl_context = await asyncio.to_thread(_ssl_context)
    import httpx

    # No trust_env: a proxy from the environment would connect to an address that was not checked.
    async with httpx.AsyncClient(trust_env=False, timeout=None, verify=ssl_context) as client:
        try:
            url = httpx.URL(text)
            for _ in range(1 + _MAX_REDIRECTS):
                check_url(url, allowed_hosts)
                address = await _resolve(url, allow_loopback)
                request = client.build_request(
                    "GET",
                    url.copy_with(host=address),
                    headers={"Host": url.netloc.decode("ascii"), "Accept-Encoding": "identity"},
                    extensions={"sni_hostname": url.raw_host.decode("ascii")},
                )
                response = await client.send(request, stream=True)
                try:
                    if not response.has_redirect_location:
                        return await _read_body(response, max_bytes)
                    url = url.join(response.headers["location"])
                finally:
                    await response.aclose()
        except (httpx.InvalidURL, UnicodeError) as error:
            raise MediaError("not a URL: send http://... or https://...") from error
        except (httpx.HTTPError, OSError) as error:
            raise MediaError(f"cannot fetch from {url.host}: {reason_of(error)}") from error
    raise MediaError(f"more than {_MAX_REDIRECTS} redirects; give the URL of the file itself")


@lru_cache(maxsize=1)
def _ssl_context() -> ssl.SSLContext:
    """httpx's default certificates, read once."""
    import httpx

    return httpx.create_ssl_context(trust_env=False)


def check_url(url: httpx.URL, allowed_hosts: Collection[str]) -> None:
    """Raise MediaError unless `url` is HTTP of an allowed host, at its default or allowed port."""
    if url.scheme not in _PORTS:
        raise MediaError("only http and https URLs are fetched", 403)
    if url.userinfo:
        raise MediaError("a URL with a user's name or password is not fetched", 403)
    host = url.host.lower()
    bracketed = f"[{host}]" if ":" in host else host
    port = url.port or _PORTS[url.scheme]
    names = {f"{bracketed}:{port}"}
    if port == _PORTS[url.scheme]:
        names |= {host, bracketed}
    if not names & {name.lower() for name in allowed_hosts}:
        raise MediaError(
            f"URLs of {bracketed} are not allowed here; send the file itself, or start the server "
            "with --allow-url HOST",
            403,
        )


async def _resolve(url: httpx.URL, allow_loopback: bool) -> str:
    """The IP address to connect to. All addresses of the host must be public."""
    port = url.port or _PORTS[url.scheme]
    address_infos = await asyncio.get_running_loop().getaddrinfo(
        url.raw_host.decode("ascii"), port, type=socket.SOCK_STREAM
    )
    addresses = [str(sockaddr[0]) for *_, sockaddr in address_infos]
    if not all(is_public(a) or (allow_loopback and ip_address(a).is_loopback) for a in addresses):
        raise MediaError(f"{url.host} is an address of a private network: not fetched", 403)
    return addresses[0]


def is_public(text: str) -> bool:
    """Whether an IP address is a unicast address of the public internet."""
    try:
        address: IPv4Address | IPv6Address = ip_address(text)
    except ValueError:  # an address with a zone, so link-local
        return False
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            address = IPv4Address(int(address) & 0xFFFFFFFF)
        elif address.sixtofour or address.teredo or address.ipv4_mapped:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


async def _read_body(response: httpx.Response, max_bytes: int) -> bytes:
    """The bytes of a response, which may not be compressed: it could be a decompression bomb."""
    if response.status_code != 200:
        raise MediaError(f"{response.url.host} answered with status {response.status_code}")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise MediaError("the server sent the file compressed, which was not asked for")
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        if len(body) > max_bytes:
            raise MediaError(
                f"the file at the URL is larger than {max_bytes / (1 << 20):.1f} MiB", 413
            )
    return bytes(body)


def reason_of(error: Exception) -> str:
    """The reason of an error in one line, to be a part of a message."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0].lower()
