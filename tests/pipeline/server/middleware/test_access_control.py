"""The server's token, which clients send with each request."""

import httpx
import pytest

from tests.helpers.live_server import serving

TOKEN = "a-secret-of-ours"


def get(url: str, **headers: str) -> httpx.Response:
    return httpx.get(f"{url}/api/version", headers=headers)


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
