"""Who may ask the server, and how much they may send."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.helpers.live_server import serving

TOKEN = "a-secret-of-ours"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(n_ctx=256, allow_hosts=("films.example",), max_body=100_000) as url:
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


def test_a_large_body_is_refused_before_it_is_read(url: str) -> None:
    body = json.dumps({"model": "mini", "prompt": "x" * 100_000})
    reply = httpx.post(f"{url}/api/generate", content=body)
    assert reply.status_code == 413
    pieces = (b"x" * 1000 for _ in range(200))  # no length beforehand
    reply = httpx.post(f"{url}/api/generate", content=pieces)
    assert reply.status_code == 413
    assert get(url).status_code == 200


def test_a_token_is_asked_for_and_never_logged(capfd: pytest.CaptureFixture[str]) -> None:
    with serving(n_ctx=256, token=TOKEN) as url:
        assert get(url).status_code == 401
        assert get(url, Authorization="Bearer wrong").status_code == 401
        assert get(url, Authorization=f"Bearer {TOKEN}").status_code == 200
        assert get(url, Authorization=f"bearer {TOKEN}").status_code == 200
        assert get(url, Authorization=f"Basic {TOKEN}").status_code == 401
        assert get(url, **{"x-api-key": TOKEN}).status_code == 200
        assert get(url, **{"x-api-key": "wrong"}).status_code == 401
        assert httpx.get(f"{url}/metrics").status_code == 401
        assert httpx.get(f"{url}/healthz").status_code == 200
        assert httpx.head(f"{url}/healthz").status_code == 200
        openai = httpx.post(f"{url}/v1/chat/completions", json={})
        assert openai.json()["error"]["message"].startswith("send the server's token")
        anthropic = httpx.post(f"{url}/v1/messages", json={}).json()
        assert anthropic["error"]["type"] == "authentication_error"
    assert TOKEN not in "".join(capfd.readouterr())


def test_metrics_count_requests_and_tokens(url: str) -> None:
    prompt = {"model": "mini", "prompt": "1, 2,", "raw": True, "stream": False}
    asked = {**prompt, "options": {"num_predict": 3}}
    reply = httpx.post(f"{url}/api/generate", json=asked, timeout=60)
    assert reply.json()["eval_count"] == 3
    text = httpx.get(f"{url}/metrics").text
    assert 'reellama_requests_total{route="/api/generate",status="200"}' in text
    assert "reellama_generated_tokens_total 3.0" in text
    assert "reellama_active_requests 0.0" in text


@pytest.mark.parametrize(("method", "status"), [("GET", 404), ("DELETE", 404)])
def test_an_unknown_path_is_told_in_the_words_of_its_protocol(
    url: str, method: str, status: int
) -> None:
    def ask(path: str) -> dict[str, Any]:
        reply = httpx.request(method, f"{url}{path}")
        assert reply.status_code == status
        found: dict[str, Any] = reply.json()
        return found

    assert ask("/api/nothing") == {"error": "Not Found"}
    assert ask("/v1/nothing")["error"]["type"] == "invalid_request_error"
    assert ask("/v1/messages/nothing")["error"]["type"] == "not_found_error"


def test_a_method_that_a_path_does_not_have_is_told_too(url: str) -> None:
    for path in ("/api/chat", "/v1/chat/completions", "/v1/files"):
        reply = httpx.put(f"{url}{path}")
        assert reply.status_code == 405 and reply.headers["allow"]
        error = reply.json()["error"]
        assert (error if path.startswith("/api") else error["message"]) == "Method Not Allowed"
