"""One request never hurts another: each of these once stopped the server, or every answer."""

import asyncio
import ctypes
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from pydantic import BaseModel, ValidationError, field_validator

from reellama.gguf_tools.editing.edit import edit
from reellama.pipeline.llm.generation_options import GenerationOptions
from reellama.pipeline.server.app import create_app
from reellama.pipeline.server.chat.chat_request import ChatRequest, ServiceMessage
from reellama.pipeline.server.chat.request_options import RequestOptions
from reellama.pipeline.server.openai.openai_schemas import ChatCompletionRequest
from reellama.pipeline.server.request_bodies.json_bodies import (
    PARALLEL_PARSE_BYTES,
    InvalidBody,
    json_body,
    parse_body,
)
from reellama.pipeline.server.service import Service
from reellama.pipeline.server.settings import Settings
from tests.helpers.live_server import serving

ENDLESS = {"type": "array", "items": {"enum": ["tick", "tock"]}, "minItems": 5000}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose GGUFs may be asked for."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[str]:
    store = tmp_path_factory.mktemp("store")
    with serving(n_ctx=512, n_parallel=2, store=store, allow_dirs=(models,)) as url:
        yield url


def post(url: str, path: str, body: Any, **more: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body)
    return httpx.post(f"{url}{path}", content=content, timeout=120, **more)


def generate(url: str, **fields: Any) -> httpx.Response:
    options = {"num_predict": 1, **fields.pop("options", {})}
    asked = {"model": "mini", "prompt": "1, 2,", "stream": False, **fields, "options": options}
    return post(url, "/api/generate", asked)


def chat(url: str, **fields: Any) -> httpx.Response:
    said = [{"role": "user", "content": "1, 2,"}]
    asked = {"model": "mini", "messages": said, "max_tokens": 1, **fields}
    return post(url, "/v1/chat/completions", asked)


def schema(**fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": fields}}


REFUSED: dict[str, tuple[Callable[..., httpx.Response], dict[str, Any], str]] = {
    "stop of half a character": (generate, {"options": {"stop": ["\ud800"]}}, ""),
    "a million stops": (generate, {"options": {"stop": ["x"] * 10**6}}, "at most 300000 are taken"),
    "many stops": (generate, {"options": {"stop": ["x"] * 10**5}}, "100000 stop texts"),
    "long stops": (chat, {"stop": ["x" * 10**6]}, "1000000 characters"),
    "pattern": (generate, {"format": {"type": "string", "pattern": "^*+?$"}}, "repeats nothing"),
    "endless": (chat, {"response_format": schema(type="string", pattern="^a]b)$")}, "closes"),
    "items": (
        generate,
        {"format": {"type": "array", "items": {}, "minItems": 10**6}},
        "minItems is 1000000",
    ),
    "letters": (chat, {"response_format": schema(type="string", minLength=10**9)}, "minLength"),
    "penalty": (generate, {"options": {"repeat_penalty": -1}}, "repeat_penalty is -1"),
    "not a number": (generate, {"options": {"temperature": float("nan")}}, "temperature"),
    "infinite": (chat, {"temperature": float("inf")}, "temperature"),
    "template": (generate, {"template": "{{ (10**60000000) % 7 }}{{ messages }}"}, "too long"),
    "Go template": (generate, {"template": "{{ .Prompt }}"}, "written in Jinja"),
    "half an address": (
        chat,
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": "http://["}]}
            ]
        },
        "not a URL",
    ),
    "thinking": (generate, {"think": True}, "does not support thinking"),
    "context": (generate, {"context": [1, -2, 3]}, "there is no token -2"),
    "long": (generate, {"prompt": "x" * 10**7}, "positions, but the context has 512"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_invalid_request_is_refused_and_the_next_one_answered(url: str, name: str) -> None:
    send, fields, reason = REFUSED[name]
    reply = send(url, **fields)
    assert reply.status_code == 400, reply.text
    assert reason in json.dumps(reply.json(), ensure_ascii=False)
    assert generate(url).json()["done"]
    assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}


def test_the_template_of_a_model_that_is_asked_for_by_name_is_rendered_in_a_child(
    url: str, models: Path, tiny_llama: Path
) -> None:
    """Clients can have models pulled, so their templates may be anybody's."""
    content = "{{ messages[0].content }}"
    for name, template in (("good", content), ("bad", "{{ 'x ' * 2500000 }}" + content)):
        edit(tiny_llama, models / f"{name}.gguf", template=template)
    good, bad = (chat(url, model=str(models / f"{name}.gguf")) for name in ("good", "bad"))
    assert good.status_code == 200, good.text
    assert bad.status_code == 400, bad.text
    assert "the template writes more than 4000000 characters" in bad.text


def test_a_thread_that_computes_lets_others_go_on_soon(url: str) -> None:
    assert generate(url).json()["done"]
    assert sys.getswitchinterval() == pytest.approx(0.001)


def test_large_bodies_are_read_one_after_the_other() -> None:
    now, most = [0], [0]

    class Slow(BaseModel):
        text: str

        @field_validator("text")
        @classmethod
        def _count(cls, text: str) -> str:
            now[0] += 1
            most[0] = max(most[0], now[0])
            time.sleep(0.02)
            now[0] -= 1
            return text

    app = create_app(Settings(cache=None))

    @app.post("/slow")
    async def slow(asked: Annotated[Slow, json_body(Slow)]) -> int:
        return len(asked.text)

    async def send_all(size: int) -> list[int]:
        place = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=place, base_url="http://localhost") as client:
            asked = [client.post("/slow", json={"text": "x" * size}) for _ in range(6)]
            return [reply.json() for reply in await asyncio.gather(*asked)]

    assert asyncio.run(send_all(PARALLEL_PARSE_BYTES)) == [PARALLEL_PARSE_BYTES] * 6
    assert most == [1]
    assert asyncio.run(send_all(9)) == [9] * 6
    assert most[0] > 1  # small ones wait for no large one


@pytest.mark.parametrize(
    "wrong",
    [
        {"stop": [*range(250_000)]},
        {"logit_bias": {f"{i}": "x" for i in range(90_000)}},
        {"messages": [{"role": 1, "content": 5}] * 9_900},
        {"messages": [{"role": "user", "content": [{"type": 5}] * 9_900}]},
    ],
    ids=["stop", "logit_bias", "messages", "parts"],
)
def test_a_body_with_many_problems_is_refused_for_the_first(
    wrong: dict[str, Any],
) -> None:
    data = json.dumps({"model": "mini", "messages": [], **wrong}).encode()
    with pytest.raises(InvalidBody) as caught:
        parse_body(ChatCompletionRequest, data)
    # One value that is wrong, for each of the kinds that it might be: to note all takes seconds.
    cause = caught.value.__cause__
    assert isinstance(cause, ValidationError) and cause.error_count() <= 12
    assert next(iter(wrong)) in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "fields",
    [
        {"options": {"repeat_last_n": 2147483647, "repeat_penalty": 1.1}},
        {"options": {"temperature": -5, "top_p": 7, "min_p": -1, "top_k": -3}},
        {"options": {"seed": 2**63 - 1, "num_ctx": -7, "num_predict": 1}},
        {"keep_alive": 1e300},
        {"keep_alive": "999999999h"},
        {"think": False, "context": []},
    ],
    ids=str,
)
def test_values_that_ollama_takes_are_taken(url: str, fields: dict[str, Any]) -> None:
    assert generate(url, **fields).json()["done"]
    assert httpx.get(f"{url}/api/ps").json()["models"]


def test_the_same_bounds_hold_in_both_protocols(url: str) -> None:
    for fields in (
        {"temperature": -5},
        {"top_p": 7},
        {"seed": -1},
        {"max_tokens": -1, "stop": "."},
    ):
        assert chat(url, **fields).status_code == 200
    assert chat(url, keep_alive=-1).status_code == 200
    assert httpx.get(f"{url}/api/ps").json()["models"][0]["expires_at"] > "2100"


def test_an_answer_is_written_until_it_ends(url: str) -> None:
    numbers = {"type": "array", "items": {"enum": ["tick"]}, "minItems": 60, "maxItems": 60}
    asked = {"model": "mini", "prompt": "Go.", "stream": False, "format": numbers}
    reply = post(url, "/api/generate", asked).json()
    assert json.loads(reply["response"]) == ["tick"] * 60
    assert reply["eval_count"] > 60


def test_a_last_message_of_the_assistant_is_continued(url: str) -> None:
    said = [
        {"role": "user", "content": "Count to four."},
        {"role": "assistant", "content": "one, two, three,"},
    ]
    answers = {
        post(url, "/api/chat", {"model": "mini", "messages": said, "stream": False, **more}).json()[
            "message"
        ]["content"]
        for more in ({"options": {"num_predict": 2}}, {"options": {"num_predict": 2, "seed": 1}})
    }
    (answer,) = answers
    assert "four" in answer


def test_a_text_that_may_not_be_truncated_is_refused(url: str) -> None:
    long = "word " * 1000
    kept = post(url, "/api/embed", {"model": "mini", "input": long})
    assert kept.json()["prompt_eval_count"] == 512
    refused = post(url, "/api/embed", {"model": "mini", "input": long, "truncate": False})
    assert refused.status_code == 400 and "more than 512 tokens" in refused.json()["error"]


def test_embeddings_are_cut_and_ids_of_no_token_are_refused(url: str) -> None:
    asked = {"model": "mini", "input": "a dog"}
    (cut,) = post(url, "/v1/embeddings", {**asked, "dimensions": 8}).json()["data"]
    assert len(cut["embedding"]) == 8
    assert sum(x * x for x in cut["embedding"]) == pytest.approx(1)
    refused = post(url, "/v1/embeddings", {**asked, "input": [[1, 10**6]]})
    assert "there is no token 1000000" in refused.json()["error"]["message"]
    assert post(url, "/v1/embeddings", {**asked, "dimensions": 10**6}).status_code == 400


@pytest.mark.parametrize("name", ["mini", "mini:latest", "Mini:LATEST", "library/mini"])
def test_a_model_has_the_names_that_ollama_gives_it(url: str, name: str) -> None:
    assert generate(url, model=name).json()["done"]
    assert httpx.get(f"{url}/v1/models/{name}").json()["id"] == name


def test_a_body_needs_no_content_type_and_nulls_are_nothing(url: str) -> None:
    said = [{"role": "user", "content": "Hi."}]
    asked = json.dumps({"model": "mini", "messages": said, "max_tokens": 1, "stream": None})
    for kind in ({}, {"Content-Type": "application/x-www-form-urlencoded"}):
        reply = post(url, "/v1/chat/completions", asked.encode(), headers=kind)
        assert reply.json()["object"] == "chat.completion"


def test_a_model_that_could_not_answer_is_not_created(url: str) -> None:
    def create(**fields: Any) -> httpx.Response:
        return post(url, "/api/create", {"model": "mine", "from": "mini", **fields})

    refused = create(template="{{ .Prompt }}")
    assert refused.status_code == 400 and "Jinja" in refused.json()["error"]
    assert create(parameters={"repeat_penalty": 0}).status_code == 400
    assert create(parameters={"stop": ["x"] * 100}).status_code == 400
    assert create(parameters={"temperature": -5}).status_code == 200
    assert generate(url, model="mine").json()["done"]


def test_the_servers_own_model_cannot_be_hidden(url: str) -> None:
    for path, asked in (
        ("/api/copy", {"source": "mini", "destination": "Mini:latest"}),
        ("/api/create", {"model": "library/mini", "from": "mini"}),
    ):
        assert "choose another name" in post(url, path, asked).json()["error"]
    names = [each["name"] for each in httpx.get(f"{url}/api/tags").json()["models"]]
    assert names.count("mini:latest") == 1


def test_a_client_that_leaves_while_a_model_loads_leaves_it_to_the_next() -> None:
    before = _batchers()

    async def leave() -> None:
        service = Service(Settings(n_ctx=256, n_parallel=1, cache=None))
        said = [ServiceMessage("user", "Hi.")]
        options = RequestOptions(GenerationOptions(max_tokens=1))
        try:
            asked = asyncio.create_task(service.chat("mini", ChatRequest(said), options))
            while not service.models._acquiring:
                await asyncio.sleep(0.001)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            generation = await service.chat("mini", ChatRequest(said), options)
            assert [token async for token in generation]
            (loaded,) = service.loaded()
            assert loaded.users == 0 and service.admission.n_admitted == 0
            assert len(_batchers() - before) == 1
        finally:
            await service.close()

    asyncio.run(leave())
    assert _batchers() == before


def _batchers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("batcher")}


def test_a_thread_that_died_is_seen_in_the_health_check(url: str) -> None:
    with serving(n_ctx=256, n_parallel=1) as own:
        asked = {"model": "mini", "prompt": "Go.", "format": ENDLESS}
        before = _batchers()
        with httpx.stream("POST", f"{own}/api/generate", json=asked, timeout=120) as reply:
            lines = reply.iter_lines()
            next(lines)
            (thread,) = _batchers() - before
            while thread.is_alive():  # where it meets one answer's own code, it ends that alone
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)
                )
                with suppress(httpx.HTTPError):  # an idle thread meets nothing: wake it
                    short = {"model": "mini", "prompt": "Go.", "options": {"num_predict": 1}}
                    httpx.post(f"{own}/api/generate", json=short, timeout=2)
            ended = json.loads(list(lines)[-1])  # the client is told, whichever the exception met
            assert "internal error" in ended.get("error", "") or ended["done"]
        health = httpx.get(f"{own}/healthz")
        while health.status_code == 200:
            time.sleep(0.01)
            health = httpx.get(f"{own}/healthz")
        assert health.status_code == 503 and health.json() == {"status": "failed"}


def test_half_a_blob_and_one_that_no_model_has_are_swept(tmp_path: Path) -> None:
    from reellama.pipeline.server.model_registry.model_store import Manifest, ModelStore

    store = ModelStore(tmp_path)
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    names = [f"sha256-{digit * 64}" for digit in "abc"]
    for name in (".incoming-old", ".incoming-new", *names):
        (blobs / name).write_bytes(b"x")
    store.put(Manifest("mine", llm=names[0].replace("-", ":")))
    for name in (".incoming-old", names[0], names[1]):
        _age(blobs / name)
    store.sweep()
    assert {path.name for path in blobs.iterdir()} == {".incoming-new", names[0], names[2]}
    (broken,) = (tmp_path / "manifests").rglob("*.json")
    broken.write_text("{")
    store.sweep()  # whose blob that was is not known
    assert (blobs / names[0]).exists()


def _age(path: Path) -> None:
    long_ago = time.time() - 86400
    os.utime(path, (long_ago, long_ago))
