"""The host names by which the server may be called, and the origins whose pages may call it."""

import socket
from collections.abc import Iterator

import httpx
import pytest

from tests.helpers.live_server import serving


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(n_ctx=256, allow_hosts=("films.example",)) as url:
        yield url


def get(url: str, **headers: str) -> httpx.Response:
    return httpx.get(f"{url}/api/version", headers=headers)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:1", "localhost", "a.localhost:9", "films.example", "[::1]:1"]
)
def test_the_servers_own_names_are_answered(url: str, host: str) -> None:
    assert get(url, Host=host).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:11435", "127.0.0.1.evil.example", "["),
        *("evil.example@localhost", "evil.example/@localhost", "evil.example#@localhost"),
    ],
)
def test_a_name_that_was_rebound_is_refused(url: str, host: str) -> None:
    reply = get(url, Host=host)
    assert reply.status_code == 403
    assert "--allow-host" in reply.json()["error"]


@pytest.mark.parametrize(
    ("origin", "passes"),
    [
        ("http://localhost:3000", True),
        ("https://a.localhost", True),
        ("http://127.0.0.1", True),
        ("http://127.1.2.3:8080", True),
        ("http://[::1]:3000", True),
        (f"http://{socket.gethostname()}:3000", True),
        ("https://films.example:8443", True),
        ("HTTP://FILMS.EXAMPLE", True),
        ("app://obsidian.md", True),
        ("file://", True),
        ("tauri://localhost", True),
        ("vscode-webview://1abc2def", True),
        ("https://evil.example", False),
        ("http://localhost.evil.example", False),
        ("http://films.example.evil.example", False),
        ("http://evil.example#localhost", False),
        ("http://192.168.0.1", False),
        ("http://[::2]", False),
        ("http://[", False),
        ("null", False),
        ("localhost", False),
    ],
)
def test_a_page_may_read_what_it_may_ask_for(url: str, origin: str, passes: bool) -> None:
    asked = httpx.get(f"{url}/api/version", headers={"Origin": origin})
    wanted = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    before = httpx.options(f"{url}/api/chat", headers=wanted)
    for reply in (asked, before):
        assert reply.status_code == (200 if passes else 403)
        allowed = reply.headers.get("access-control-allow-origin")
        assert allowed == (origin if passes else None)


def test_a_request_of_http_1_0_needs_no_host(url: str) -> None:
    place = httpx.URL(url)
    for version, status in ((b"1.0", b"200"), (b"1.1", b"400")):
        with socket.create_connection((place.host, place.port or 0), timeout=60) as connection:
            connection.sendall(b"GET /api/version HTTP/" + version + b"\r\n\r\n")
            assert connection.recv(99).split()[1] == status
