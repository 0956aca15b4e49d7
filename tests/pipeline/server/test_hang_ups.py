"""Clients that go away at any moment: their places come back, and nobody waits for their work."""

import asyncio
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from reellama.pipeline.server.media.media_encoder import _gather_or_cancel
from reellama.pipeline.server.ollama import model_routes
from tests.helpers.live_server import serving

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module", params=[None, 60.0], ids=["without a limit", "with a time limit"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with serving(n_ctx=256, n_parallel=2, queue=200, answer_seconds=request.param) as url:
        yield url


def send(url: str, path: str, body: object) -> socket.socket:
    """A request whose answer nobody has read yet."""
    address = urlsplit(url)
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    connection = socket.create_connection((address.hostname, address.port))
    connection.sendall(head.encode() + data)
    return connection


def n_active(url: str) -> float:
    text = httpx.get(f"{url}/metrics").text
    (line,) = [each for each in text.splitlines() if each.startswith("reellama_active_requests ")]
    return float(line.split()[-1])


@pytest.mark.parametrize(
    ("path", "fields", "n"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES, "n": 8, "max_tokens": 3}, 40),
        ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 3}, 150),
        ("/v1/completions", {"prompt": ["a", "b", "word " * 200], "max_tokens": 3}, 40),
        ("/api/chat", {"messages": MESSAGES, "options": {"num_predict": 3}}, 40),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 3}, 40),
    ],
    ids=["choices", "one", "prompts", "ollama", "anthropic"],
)
def test_a_place_comes_back_whenever_its_client_hangs_up(
    url: str, path: str, fields: dict[str, object], n: int
) -> None:
    rng = random.Random(0)
    for i in range(n):
        connection = send(url, path, {"model": "mini", "stream": i % 2 == 0, **fields})
        time.sleep(0.03 * rng.random())
        connection.close()
    until = time.monotonic() + 120
    while n_active(url) and time.monotonic() < until:
        time.sleep(0.1)
    assert n_active(url) == 0


def test_downloads_that_do_not_end_hold_up_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    may_end = threading.Event()

    def download(name: str, tell: object) -> Path:
        assert may_end.wait(120)
        return tmp_path / "none.gguf"

    monkeypatch.setattr(model_routes, "_download", download)
    with serving(n_ctx=256, store=tmp_path) as url:
        try:
            pulls = [send(url, "/api/pull", {"model": f"hf.co/a/b{i}"}) for i in range(40)]
            for each in pulls[::2]:
                each.close()
            shown = httpx.post(f"{url}/api/show", json={"model": "mini"}, timeout=60)
            assert shown.status_code == 200
        finally:
            may_end.set()
            for each in pulls:
                each.close()


def test_the_other_encodings_end_with_the_first_error() -> None:
    ended: list[str] = []

    async def fail() -> None:
        raise ValueError("no picture")

    async def see() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("seeing")

    async def run() -> None:
        with pytest.raises(ValueError, match="no picture"):
            await _gather_or_cancel([see(), fail(), see()])
        assert ended == ["seeing", "seeing"]

    asyncio.run(run())
