"""How many bytes a body may have, and how long its next piece may take."""

import json
import socket

import httpx
import pytest

from tests.helpers.live_server import serving


def test_a_large_body_is_refused_before_it_is_read() -> None:
    with serving(n_ctx=256, max_body=100_000) as url:
        body = json.dumps({"model": "mini", "prompt": "x" * 100_000})
        reply = httpx.post(f"{url}/api/generate", content=body)
        assert reply.status_code == 413
        pieces = (b"x" * 1000 for _ in range(200))  # no length beforehand
        reply = httpx.post(f"{url}/api/generate", content=pieces)
        assert reply.status_code == 413
        assert httpx.get(f"{url}/api/version").status_code == 200


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reellama.pipeline.server.middleware.body_limit.BODY_SECONDS", 0.4)
    with serving(n_ctx=256) as url:
        place = httpx.URL(url)
        head = b"POST /api/show HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n"
        with socket.create_connection((place.host, place.port or 0), timeout=60) as slow:
            slow.sendall(head + b"{")
            assert slow.recv(12) == b"HTTP/1.1 408"
