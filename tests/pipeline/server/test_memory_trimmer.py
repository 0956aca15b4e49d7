"""Memory of large requests is given back, some time after them and once for all."""

import asyncio
import gc
import re
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from reellama.gguf_tools import heap
from reellama.pipeline.server import memory_trimmer
from reellama.pipeline.server.memory_trimmer import TRIM_AFTER_BYTES, MemoryTrimmer


@pytest.fixture
def given_back(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    found: list[bool] = []
    own = heap.trim_heap

    def trim_heap() -> None:
        own()
        found.append(True)

    monkeypatch.setattr(heap, "trim_heap", trim_heap)
    monkeypatch.setattr(memory_trimmer, "TRIM_SECONDS", 0.01)
    return found


@pytest.mark.parametrize(
    ("sizes", "n"), [((TRIM_AFTER_BYTES - 1,) * 9, 0), ((TRIM_AFTER_BYTES, 1, TRIM_AFTER_BYTES), 1)]
)
def test_memory_is_given_back_once_after_large_requests(
    given_back: list[bool], sizes: tuple[int, ...], n: int
) -> None:
    async def requests() -> None:
        trimmer = MemoryTrimmer()
        for size in sizes:
            trimmer.note_body(size)
        await asyncio.sleep(0.2)

    asyncio.run(requests())
    assert len(given_back) == n


class Body:
    """A large one, which refers to itself, as an error with its traceback does."""

    def __init__(self) -> None:
        self.self = self


def test_reference_cycles_are_freed_too(given_back: list[bool]) -> None:
    async def request() -> None:
        MemoryTrimmer().note_body(TRIM_AFTER_BYTES)
        while not given_back:
            await asyncio.sleep(0.01)

    gc.disable()
    try:
        body = weakref.ref(Body())
        assert body() is not None
        asyncio.run(asyncio.wait_for(request(), 30))
        assert body() is None
    finally:
        gc.enable()


def served(store: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A server as people start it, in a process of its own."""
    command = [sys.executable, "-m", "reellama", "serve", "--port", "0"]
    command += ["--n-ctx", "256", "--log-level", "error", "--store", str(store)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            found = re.search(r"http://\S+", process.stderr.readline())
            assert found
            yield found[0], psutil.Process(process.pid)
        finally:
            process.terminate()


@pytest.mark.measures
def test_large_requests_leave_a_server_as_large_as_it_was(tmp_path: Path) -> None:
    with contextmanager(served)(tmp_path) as (url, server):

        def generate(prompt: str) -> int:
            asked = {"model": "mini", "prompt": prompt, "options": {"num_predict": 1}}
            return httpx.post(f"{url}/api/generate", json=asked, timeout=120).status_code

        with ThreadPoolExecutor(12) as clients:
            assert list(clients.map(generate, ["Go."] * 12)) == [200] * 12
            before = server.memory_info().rss
            assert list(clients.map(generate, ["word " * 10**6] * 48)) == [400] * 48
        time.sleep(memory_trimmer.TRIM_SECONDS + 2)
        assert server.memory_info().rss < 1.1 * before
