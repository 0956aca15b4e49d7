"""Media by URL: only from allowed hosts, only what is public, only so much of it."""

import asyncio
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from reellama.pipeline.server.media.fetch import fetch, is_public
from reellama.pipeline.server.media.media_items import MediaError
from tests.helpers.http_server import Server

CLIP = b"\x1a\x45\xdf\xa3 a clip" * 100


class Handler(BaseHTTPRequestHandler):
    """Sends a clip, slowly or without end, or sends elsewhere."""

    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        if self.path == "/gone":
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        try:
            if self.path == "/slow":
                time.sleep(3)
            for _ in range(10_000 if self.path == "/endless" else 1):
                self.wfile.write(CLIP)
        except OSError:
            pass

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def get(url: str, *allowed: str, seconds: float = 5, most: int = 1 << 20) -> bytes:
    return asyncio.run(fetch(url, allowed, most, seconds, allow_loopback=True))


def test_an_allowed_host_is_fetched_from(host: str) -> None:
    assert get(f"http://{host}/clip.mkv", host) == CLIP
    assert get(f"http://{host}/to/http://{host}/clip.mkv", host) == CLIP


def test_other_hosts_and_schemes_are_refused(host: str) -> None:
    for url in (
        f"http://{host}/clip.mkv",
        "http://films.example.evil.example/clip.mkv",
        "ftp://films.example/clip.mkv",
        "http://user:password@films.example/clip.mkv",
    ):
        with pytest.raises(MediaError) as refused:
            get(url, "films.example")
        assert refused.value.status == 403


def test_a_redirect_is_checked_like_the_first_address(host: str) -> None:
    with pytest.raises(MediaError) as refused:
        get(f"http://{host}/to/http://elsewhere.example/clip.mkv", host)
    assert refused.value.status == 403
    with pytest.raises(MediaError, match="redirects"):
        get(f"http://{host}" + f"/to/http://{host}" * 6 + "/clip.mkv", host)


def test_a_private_address_is_refused_under_an_allowed_name_too() -> None:
    for name in ("localhost", "127.0.0.1", "10.0.0.1", "[::1]", "169.254.169.254"):
        with pytest.raises(MediaError) as refused:
            asyncio.run(fetch(f"http://{name}/", [name], 1000, 5))
        assert refused.value.status == 403


def test_size_and_time_are_limited(host: str) -> None:
    with pytest.raises(MediaError, match="larger than") as refused:
        get(f"http://{host}/endless", host, most=100_000)
    assert refused.value.status == 413
    with pytest.raises(MediaError, match="within 0.5 s"):
        get(f"http://{host}/slow", host, seconds=0.5)
    with pytest.raises(MediaError, match="status 404"):
        get(f"http://{host}/gone", host)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("192.168.0.1", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("fd00::1", False),
    ],
)
def test_public_addresses_are_told_from_private_ones(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_the_event_loop_goes_on_while_certificates_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[threading.Thread] = []
    own = ssl.create_default_context

    def create(*given: Any, **more: Any) -> ssl.SSLContext:
        threads.append(threading.current_thread())
        return own(*given, **more)

    monkeypatch.setattr(ssl, "create_default_context", create)
    for _ in range(2):
        with pytest.raises(MediaError, match="not allowed"):
            asyncio.run(fetch("http://127.0.0.1:1/a", [], 1000, 5))
    assert threading.main_thread() not in threads
    assert len(threads) <= 1  # they are read once
