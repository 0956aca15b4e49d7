"""Connections on which no request comes are closed."""

import http.client
import socket
import time
from contextlib import closing

import httpx
import pytest

from tests.helpers.live_server import serving


def test_a_connection_on_which_nothing_comes_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reellama.pipeline.server.uvicorn_server.HEADER_SECONDS", 0.4)
    with serving(n_ctx=256) as url:
        place = httpx.URL(url)
        for sent in (b"", b"POST /api/show HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n"):
            with socket.create_connection((place.host, place.port or 0), timeout=60) as slow:
                slow.sendall(sent)
                assert slow.recv(12) == b""


def test_a_connection_that_is_used_is_not_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reellama.pipeline.server.uvicorn_server.HEADER_SECONDS", 0.2)
    with serving(n_ctx=256) as own:
        place = httpx.URL(own)
        kept = http.client.HTTPConnection(place.host, place.port, timeout=60)
        with closing(kept):
            begin = time.monotonic()
            while time.monotonic() - begin < 1:
                kept.request("GET", "/healthz")
                assert kept.getresponse().read() == b'{"status":"ok"}'
                kept.auto_open = 0  # the same connection from now on
                time.sleep(0.01)
