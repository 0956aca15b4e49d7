"""More requests than there is room for, and clients that go away."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from reellama.pipeline.llm.batching.generation_job import GenerationStats
from reellama.pipeline.llm.generation_options import GenerationOptions
from reellama.pipeline.server.chat.chat_answer import ChatAnswer
from reellama.pipeline.server.chat.chat_request import ChatRequest, ServiceMessage
from reellama.pipeline.server.chat.request_options import RequestOptions
from reellama.pipeline.server.media.media_items import MediaItem
from reellama.pipeline.server.service import Service
from reellama.pipeline.server.settings import Settings
from tests.helpers.live_server import serving

SHORT = RequestOptions(GenerationOptions(max_tokens=4))

pytestmark = pytest.mark.measures

ENDLESS = {"type": "array", "items": {"enum": ["tick", "tock"]}, "minItems": 5000}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(n_ctx=2048, n_parallel=1, queue=1) as url:
        yield url


def body(**more: object) -> dict[str, object]:
    return {"model": "mini", "prompt": "1, 2, 3,", "raw": True, **more}


def endless(url: str) -> httpx.Response:
    prompt = body(format=ENDLESS, options={"num_predict": -1})
    return httpx.Client(timeout=60).send(
        httpx.Request("POST", f"{url}/api/generate", json=prompt), stream=True
    )


def metric(url: str, name: str) -> float:
    text = httpx.get(f"{url}/metrics").text
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[-1])


def active(url: str) -> float:
    return metric(url, "reellama_active_requests")


def test_past_the_queue_a_client_is_told_to_come_back(url: str) -> None:
    running = endless(url)
    lines = running.iter_lines()
    next(lines)
    short = body(options={"num_predict": 2}, stream=False)
    with ThreadPoolExecutor() as clients:
        waits = clients.submit(httpx.post, f"{url}/api/generate", json=short, timeout=60)
        while active(url) < 2:
            time.sleep(0.02)
        for path, refused in (("/api/generate", short), ("/v1/completions", body(max_tokens=2))):
            reply = httpx.post(f"{url}{path}", json=refused, timeout=60)
            assert reply.status_code == 503
            assert int(reply.headers["Retry-After"]) > 0
            assert "busy" in json.dumps(reply.json())
        running.close()  # the client of the endless answer goes away: the next one has its turn
        assert waits.result().json()["eval_count"] == 2


def test_a_client_has_no_more_places_than_it_may_and_is_told_its_position() -> None:
    with serving(n_ctx=2048, n_parallel=1, queue=8, max_per_client=2) as url:
        running = endless(url)
        assert running.headers["x-queue-position"] == "0"
        lines = running.iter_lines()
        next(lines)
        short = body(options={"num_predict": 2}, stream=False)
        with ThreadPoolExecutor() as clients:
            waits = clients.submit(httpx.post, f"{url}/api/generate", json=short, timeout=300)
            while active(url) < 2:
                time.sleep(0.02)
            assert metric(url, "reellama_queue_requests") == 1
            for path in ("/api/generate", "/v1/completions"):
                reply = httpx.post(f"{url}{path}", json=body(), timeout=60)
                assert reply.status_code == 429 and int(reply.headers["Retry-After"]) > 0
                assert "2 requests of one client" in reply.text
            running.close()
            assert waits.result().headers["x-queue-position"] == "1"
        assert metric(url, 'reellama_dropped_requests_total{reason="client"}') == 2
        assert metric(url, 'reellama_dropped_requests_total{reason="unfinished"}') == 1
        for name in ("queue", "prefill", "decode"):
            assert metric(url, f"reellama_{name}_seconds_total") > 0


def test_an_answer_ends_when_its_time_is_over() -> None:
    with serving(n_ctx=2048, n_parallel=1, answer_seconds=2.0) as url:
        asked = body(format=ENDLESS, options={"num_predict": -1}, stream=False)
        said = [{"role": "user", "content": "Go."}]
        schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": ENDLESS}}
        chat = {"model": "mini", "messages": said, "response_format": schema}
        for path, endless in (("/api/generate", asked), ("/v1/chat/completions", chat)):
            reply = httpx.post(f"{url}{path}", json=endless, timeout=60)
            assert reply.status_code == 504 and "more than 2 s" in reply.text
        assert metric(url, 'reellama_dropped_requests_total{reason="unfinished"}') == 2
        begin = time.monotonic()
        while active(url) > 0 and time.monotonic() - begin < 20:
            time.sleep(0.05)
        assert active(url) == 0


def test_a_client_that_leaves_while_it_waits_leaves_no_trace(url: str) -> None:
    running = endless(url)
    lines = running.iter_lines()  # kept: with its iterator a response is closed
    next(lines)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{url}/api/generate", json=body(stream=False), timeout=0.3)
    begin = time.monotonic()
    while active(url) > 1 and time.monotonic() - begin < 20:
        time.sleep(0.05)
    assert active(url) == 1
    running.close()
    while active(url) > 0 and time.monotonic() - begin < 40:
        time.sleep(0.05)
    assert active(url) == 0


def test_an_unused_model_is_unloaded_after_its_time() -> None:
    with serving(n_ctx=256, keep_alive=0.0) as url:
        prompt = body(options={"num_predict": 1}, stream=False)
        assert httpx.post(f"{url}/api/generate", json=prompt, timeout=60).status_code == 200
        assert httpx.get(f"{url}/api/ps").json() == {"models": []}
        kept = {**prompt, "keep_alive": -1}
        assert httpx.post(f"{url}/api/generate", json=kept, timeout=60).status_code == 200
        (loaded,) = httpx.get(f"{url}/api/ps").json()["models"]
        assert loaded["name"] == "mini:latest" and loaded["context_length"] == 256


def test_a_long_conversation_loses_its_oldest_turns_and_keeps_the_video(square_video: Path) -> None:
    async def talk() -> tuple[GenerationStats, GenerationStats]:
        service = Service(Settings(n_ctx=256, n_parallel=1, cache=None))
        try:
            said = [
                ServiceMessage("user", "What happens?", (MediaItem((square_video.read_bytes(),)),))
            ]
            short = await read(await service.chat("mini", ChatRequest(said), SHORT))
            for i in range(40):
                said += [
                    ServiceMessage("assistant", f"It moves {i}."),
                    ServiceMessage("user", "And then?"),
                ]
            return short, await read(await service.chat("mini", ChatRequest(said), SHORT))
        finally:
            await service.close()

    async def read(answer: ChatAnswer) -> GenerationStats:
        _ = [event async for event in answer]
        return answer.stats

    short, long = asyncio.run(talk())
    assert short.prompt_tokens < long.prompt_tokens <= 256 - 4
    assert long.generated_tokens


def test_a_question_that_cannot_fit_is_refused() -> None:
    async def ask() -> None:
        service = Service(Settings(n_ctx=256, n_parallel=1, cache=None))
        try:
            asked = ChatRequest([ServiceMessage("user", "word " * 500)])
            await service.chat("mini", asked, RequestOptions(GenerationOptions()))
        finally:
            assert service.admission.n_admitted == 0
            await service.close()

    with pytest.raises(Exception, match="positions, but the context has 256"):
        asyncio.run(ask())


def test_embeddings_and_long_prompts_do_not_block_other_requests() -> None:
    async def ask() -> str | None:
        service = Service(Settings(n_ctx=256, n_parallel=1, cache=None))
        held = threading.Event()
        try:
            await service.embed("mini", ["a"])
            [loaded] = service.loaded()
            work = [service.prompt_preparer._long_prompts.run(lambda: held.wait(60))]
            assert loaded.embedder is not None
            with loaded.embedder._lock:
                waiting = [asyncio.ensure_future(service.embed("mini", ["b"])) for _ in range(40)]
                await asyncio.sleep(0.1)
                answer = await asyncio.wait_for(service.complete("mini", "Go.", SHORT), 60)
                _ = [token async for token in answer]
                held.set()
                assert not any(each.done() for each in waiting)
            await asyncio.gather(*waiting, *work)
            return answer.stats.stop_reason
        finally:
            await service.close()

    assert asyncio.run(ask()) is not None


def test_threads_end_with_the_server() -> None:
    before = set(threading.enumerate())
    with serving(n_ctx=256) as url:
        httpx.post(
            f"{url}/api/generate", json=body(stream=False, options={"num_predict": 1}), timeout=60
        )
        assert any(t.name.startswith("batcher") for t in set(threading.enumerate()) - before)
    assert not [t.name for t in set(threading.enumerate()) - before if "batcher" in t.name]


def test_a_model_that_nobody_uses_goes_when_memory_is_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("reellama.pipeline.server.model_pool.CHECK_SECONDS", 0.1)
    with serving(n_ctx=256, keep_alive=-1.0) as url:
        prompt = body(options={"num_predict": 1}, stream=False)
        assert httpx.post(f"{url}/api/generate", json=prompt, timeout=60).status_code == 200
        assert httpx.get(f"{url}/api/ps").json()["models"]
        monkeypatch.setattr(
            "reellama.pipeline.server.model_pool.MIN_FREE_MEMORY", 1.0
        )  # all memory, that is
        begin = time.monotonic()
        while httpx.get(f"{url}/api/ps").json()["models"] and time.monotonic() - begin < 20:
            time.sleep(0.05)
        assert not httpx.get(f"{url}/api/ps").json()["models"]
        assert httpx.post(f"{url}/api/generate", json=prompt, timeout=60).status_code == 200
