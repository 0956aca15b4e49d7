"""Who may ask the server, and how much they may send."""

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.served import serving

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
    "host", ["evil.example", "evil.example:11435", "127.0.0.1.evil.example", "["]
)
def test_a_name_that_was_rebound_is_not(url: str, host: str) -> None:
    reply = get(url, Host=host)
    assert reply.status_code == 403
    assert "--allow-host" in reply.json()["error"]


def test_pages_of_other_origins_may_not_call(url: str) -> None:
    for origin in ("http://localhost:3000", "http://127.0.0.1", "app://obsidian.md"):
        reply = get(url, Origin=origin)
        assert reply.status_code == 200
        assert reply.headers["access-control-allow-origin"] == origin
    for origin in ("https://evil.example", "null", "http://localhost.evil.example"):
        reply = get(url, Origin=origin)
        assert reply.status_code == 403
        assert "access-control-allow-origin" not in reply.headers


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
        assert httpx.get(f"{url}/metrics").status_code == 401
        assert httpx.get(f"{url}/healthz").status_code == 200
        openai = httpx.post(f"{url}/v1/chat/completions", json={})
        assert openai.json()["error"]["message"].startswith("send the server's token")
    assert TOKEN not in "".join(capfd.readouterr())


def test_metrics_count_requests_and_tokens(url: str) -> None:
    prompt = {"model": "mini", "prompt": "1, 2,", "raw": True, "stream": False}
    reply = httpx.post(f"{url}/api/generate", json={**prompt, "options": {"num_predict": 3}})
    assert reply.json()["eval_count"] == 3
    text = httpx.get(f"{url}/metrics").text
    assert 'reellama_requests_total{route="/api/generate",status="200"}' in text
    assert "reellama_generated_tokens_total 3.0" in text
    assert "reellama_active_requests 0.0" in text
