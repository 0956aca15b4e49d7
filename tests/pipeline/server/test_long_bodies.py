"""Reading a request holds up nobody: bodies are limited, read in steps, and leave no garbage."""

import asyncio
import base64
import gc
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from typing import Any

import pytest
from pydantic import BaseModel

from reellama.pipeline.server.anthropic.messages_schemas import MessagesRequest
from reellama.pipeline.server.chat.chat_request import ChatRequest, ServiceMessage
from reellama.pipeline.server.chat.cooperative_loops import yielding_to_event_loop
from reellama.pipeline.server.chat.planned_answers import plain_question
from reellama.pipeline.server.media.base64_data import BASE64_PIECE, decode_base64
from reellama.pipeline.server.media.media_items import MediaError
from reellama.pipeline.server.ollama.ollama_schemas import GenerateRequest, OllamaChatRequest
from reellama.pipeline.server.openai.openai_schemas import ChatCompletionRequest
from reellama.pipeline.server.request_bodies.json_bodies import (
    MAX_BYTES,
    MAX_OBJECTS,
    InvalidBody,
    parse_body,
)
from reellama.pipeline.server.request_bodies.large_bodies import (
    LONG_STRING_BYTES,
    SPLIT_ABOVE_BYTES,
    LargeBody,
)
from tests.helpers.live_server import serving

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(n_ctx=256, n_parallel=2) as url:
        yield url


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "mini", "max_tokens": 2, **fields}).encode()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"messages": MESSAGES * 140_000}, "objects"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 20_000}]}, ""),
        ({"messages": MESSAGES, "tools": [{}] * 20_000}, "objects"),
        ({"messages": MESSAGES, "logit_bias": {str(i): 1 for i in range(110_000)}}, "fields"),
        ({"messages": MESSAGES, "x": [[]] * 60_000}, "lists"),
        ({"messages": MESSAGES, "x": "\n" * (MAX_BYTES // 2)}, "bytes"),
    ],
    ids=["messages", "parts", "tools", "biases", "lists", "text"],
)
@pytest.mark.parametrize("schema", [ChatCompletionRequest, MessagesRequest, OllamaChatRequest])
def test_a_body_of_too_much_is_refused_unread(
    schema: type[BaseModel], fields: dict[str, Any], reason: str
) -> None:
    data = body(**fields)[:-1]  # whoever read it would miss its end
    with pytest.raises(InvalidBody, match=f"{reason}.*at most"):
        parse_body(schema, data)


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
def test_too_many_messages_are_refused_in_the_words_of_the_protocol(url: str, path: str) -> None:
    status, told = ask(url, path, body(messages=MESSAGES * (MAX_OBJECTS + 1)))
    assert status == 400
    error = json.loads(told)["error"]
    text = error if path == "/api/chat" else error["message"]
    assert f"at most {MAX_OBJECTS} are taken" in text


def test_as_many_objects_as_are_taken_are_read() -> None:
    asked = parse_body(ChatCompletionRequest, body(messages=MESSAGES * (MAX_OBJECTS - 1)))
    assert len(asked.messages) == MAX_OBJECTS - 1


def test_braces_in_a_text_are_no_objects() -> None:
    text = json.dumps([{"a": {}, "b": "{"}] * MAX_OBJECTS).replace("{}", "{ ")
    assert parse_body(GenerateRequest, body(prompt=text)).prompt == text


def video(n: int) -> str:
    return base64.b64encode(bytes(range(256)) * (n // 256)).decode()


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": "?", "images": [video(2 * SPLIT_ABOVE_BYTES)]}]},
        {"messages": [{"role": "user", "content": "?", "images": [video(SPLIT_ABOVE_BYTES)] * 3}]},
        {
            "messages": [
                {"role": "user", "content": "data:video/mp4;base64," + video(SPLIT_ABOVE_BYTES)}
            ]
        },
        {"messages": [{"role": "user", "content": 'an "escaped" ' + video(SPLIT_ABOVE_BYTES)}]},
        {"messages": [{"role": "user", "content": '"' + "x" * SPLIT_ABOVE_BYTES + '"'}] * 2},
        {"messages": [{"role": "user", "content": "word, word. é\n" * SPLIT_ABOVE_BYTES}]},
        {
            "messages": MESSAGES,
            "options": {
                video(SPLIT_ABOVE_BYTES): {"a": [video(SPLIT_ABOVE_BYTES), 1.5, None, True]}
            },
        },
        {"messages": MESSAGES * 9000, "options": {"a": ["é" * SPLIT_ABOVE_BYTES]}},
    ],
    ids=["one", "several", "data URL", "escaped", "quoted", "text", "name", "many"],
)
@pytest.mark.parametrize("escaped", [True, False])
def test_a_large_body_says_the_same_as_it_does_to_json(
    fields: dict[str, Any], escaped: bool
) -> None:
    data = json.dumps(fields, ensure_ascii=escaped).encode()
    assert len(data) > SPLIT_ABOVE_BYTES
    large = LargeBody(data)
    assert large.put_back(json.loads(large.rest)) == json.loads(data)


def test_long_strings_are_taken_out_of_a_large_body() -> None:
    url = "data:video/mp4;base64," + video(SPLIT_ABOVE_BYTES)
    large = LargeBody(
        body(
            messages=[{"content": url}, {"content": video(LONG_STRING_BYTES)}],
            x="y" * SPLIT_ABOVE_BYTES,
        )
    )
    assert len(large.rest) < 300
    assert b"data:video/mp4;base64," in large.rest


@pytest.mark.parametrize(
    "data",
    [
        b'{"model": "mini", "prompt": "' + b"x" * SPLIT_ABOVE_BYTES,
        b'{"model": "mini"' + b"x" * SPLIT_ABOVE_BYTES + b'"prompt": "x"}',
        b'{"model": "mini", "prompt": "' + b"\xff" * SPLIT_ABOVE_BYTES + b'"}',
        b'{"model": "mini", "prompt": "' + b"x" * SPLIT_ABOVE_BYTES + b'\n"}',
        b"x" * SPLIT_ABOVE_BYTES,
        b" " * SPLIT_ABOVE_BYTES,
    ],
)
def test_a_large_body_that_is_not_json_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidBody, match="the body is not JSON"):
        parse_body(GenerateRequest, data)


def test_a_large_body_of_a_wrong_kind_is_told_by_its_field() -> None:
    with pytest.raises(InvalidBody, match="messages.0.images") as caught:
        parse_body(
            OllamaChatRequest,
            body(messages=[{"role": "user", "images": [video(SPLIT_ABOVE_BYTES), 5]}]),
        )
    assert len(str(caught.value)) < 200


def longest_wait(work: Callable[[], object]) -> float:
    """Seconds that another thread had to wait for the interpreter while `work` ran, at most."""
    done, longest = threading.Event(), [0.0]

    def look() -> None:
        while not done.is_set():
            begin = time.perf_counter()
            time.sleep(0.0005)
            longest[0] = max(longest[0], time.perf_counter() - begin)

    before = sys.getswitchinterval()
    sys.setswitchinterval(0.001)
    watch = threading.Thread(target=look)
    watch.start()
    try:
        time.sleep(0.01)
        work()
    finally:
        done.set()
        watch.join()
        sys.setswitchinterval(before)
    return longest[0]


@pytest.mark.measures
def test_other_threads_go_on_while_a_large_body_is_read() -> None:
    data = body(messages=[{"role": "user", "content": "?", "images": [video(24 << 20)]}])
    text = video(24 << 20)

    def at_once() -> object:
        return json.loads(data), base64.b64decode(text, validate=True)

    def in_steps() -> object:
        return parse_body(OllamaChatRequest, data), decode_base64(text)

    # Other programs may take the cores from either: the shortest of many tells what it holds.
    held = [min(longest_wait(work) for _ in range(8)) for work in (at_once, in_steps)]
    assert held[1] < max(held[0] / 2, 0.02)


@pytest.mark.parametrize("n", [0, 1, 2, 3, BASE64_PIECE - 1, BASE64_PIECE, 3 * BASE64_PIECE + 7])
def test_base64_is_decoded_in_steps(n: int) -> None:
    data = (bytes(range(256)) * (n // 256 + 1))[:n]
    packed = base64.b64encode(data).decode()
    lines = "\n".join(packed[i : i + 76] for i in range(0, len(packed), 76))
    of_urls = packed.replace("+", "-").replace("/", "_").rstrip("=")
    for text in (packed, lines, of_urls):
        assert decode_base64(text) == data


def test_base64_that_ends_before_its_end_is_refused() -> None:
    with pytest.raises(MediaError, match="not base64"):
        decode_base64("AAA=" * (BASE64_PIECE // 2))


def test_a_long_loop_lets_others_go_on() -> None:
    async def turns() -> int:
        n = 0

        async def other() -> None:
            nonlocal n
            while True:
                n += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        assert [i async for i in yielding_to_event_loop(range(1000))] == [*range(1000)]
        task.cancel()
        return n

    assert asyncio.run(turns()) >= 10


def test_a_long_text_is_no_question_that_is_answered_without_the_model() -> None:
    from reellama.pipeline.llm.generation_options import GenerationOptions

    said = "What is said? " * 400_000
    asked = ChatRequest([ServiceMessage("user", said)])
    assert plain_question(asked, GenerationOptions()) == ""


def test_stored_items_of_a_conversation_count_towards_the_limit(url: str) -> None:
    previous = None
    for n in (MAX_OBJECTS - 10, 9):
        asked = {"model": "mini", "input": MESSAGES * n, "previous_response_id": previous}
        status, told = ask(
            url, "/v1/responses", json.dumps({**asked, "max_output_tokens": 1}).encode()
        )
        previous = json.loads(told).get("id")
    assert status == 400
    assert "those that are remembered" in json.loads(told)["error"]["message"]


def ask(url: str, path: str, data: bytes) -> tuple[int, bytes]:
    connection = HTTPConnection(url.removeprefix("http://"), timeout=120)
    connection.request("POST", path, data)
    reply = connection.getresponse()
    told = reply.status, reply.read()
    connection.close()
    return told


PATTERN = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"pattern": "^*+?$"}}}


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        (
            "/api/chat",
            {"messages": MESSAGES * 300, "stream": False, "options": {"num_predict": 1}},
            200,
        ),
        ("/v1/chat/completions", {"messages": MESSAGES * 300}, 200),
        ("/v1/messages", {"messages": MESSAGES * 300}, 200),
        ("/v1/chat/completions", {"messages": MESSAGES * 300, "stop": ["x"] * 100}, 400),
        ("/v1/chat/completions", {"messages": MESSAGES * 300, "response_format": PATTERN}, 400),
        (
            "/api/chat",
            {"messages": MESSAGES * 300, "format": {"type": "string", "pattern": "^*+?$"}},
            400,
        ),
        ("/api/generate", {"prompt": "word " * 9000}, 400),
        ("/api/generate", {"prompt": "x", "template": "{% if"}, 400),
        (
            "/v1/responses",
            {"input": MESSAGES * 300, "previous_response_id": "resp_" + "0" * 32},
            404,
        ),
    ],
)
def test_a_request_leaves_no_more_than_its_connection_to_the_garbage_collector(
    url: str, path: str, fields: dict[str, Any], status: int
) -> None:
    def garbage(send: Callable[[], tuple[int, bytes]], expected: int) -> int:
        found = []
        for _ in range(4):  # the first loads what is needed
            gc.collect()
            gc.disable()
            try:
                assert send()[0] == expected
                time.sleep(0.05)
                found.append(gc.collect())
            finally:
                gc.enable()
        return min(found)

    gc.collect()
    gc.freeze()  # looking through all that is there already would take most of the time
    try:
        of_none = garbage(lambda: ask(url, "/api/show", b"{"), 400)
        assert garbage(lambda: ask(url, path, body(**fields)), status) < of_none + 30
    finally:
        gc.unfreeze()
