"""One value of a good request to Anthropic's endpoints becomes hostile: it is answered or refused
in the protocol's words, and the next request is answered."""

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reellama.pipeline.server.anthropic.anthropic_errors import ERROR_TYPES
from tests.helpers.live_server import serving


def picture() -> str:
    """A small picture in base64."""
    data = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(data, "png")
    return base64.b64encode(data.getvalue()).decode()


SCHEMA = {
    "type": "object",
    "properties": {"town": {"type": "string", "enum": ["Rome", "Oslo"]}},
    "required": ["town"],
}
TEXT = {"type": "text", "text": "What is the weather?"}
PICTURE = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": picture()},
    "frames": 1,
}
PLAIN_FILE = {"type": "text", "media_type": "text/plain", "data": "It is warm."}
TOOL_USE = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"town": "Rome"}}
RESULT = {
    "type": "tool_result",
    "tool_use_id": "toolu_1",
    "content": [{"type": "text", "text": "Sunny."}],
    "is_error": False,
}
TALK: dict[str, Any] = {
    "model": "mini",
    "messages": [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": [{"type": "text", "text": "Hi."}]},
        {"role": "user", "content": [TEXT]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "x"},
                {"type": "redacted_thinking", "data": "x"},
                TOOL_USE,
            ],
        },
        {"role": "user", "content": [RESULT, {"type": "document", "source": PLAIN_FILE}]},
    ],
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "tools": [
        {"type": "custom", "name": "weather", "description": "Of a town.", "input_schema": SCHEMA}
    ],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "thinking": {"type": "disabled"},
    "keep_alive": 60,
    "tokens": 32,
}
ANSWER = {
    "max_tokens": 1,
    "stream": False,
    "stop_sequences": ["END"],
    "temperature": 0.5,
    "top_k": 5,
    "top_p": 0.9,
    "seed": 1,
    "metadata": {"user_id": "u"},
    "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
}
SEEN = {
    "model": "mini",
    "max_tokens": 1,
    "messages": [{"role": "user", "content": [PICTURE, TEXT]}],
}
COUNT = "/v1/messages/count_tokens"
GOOD: list[tuple[str, dict[str, Any]]] = [
    ("/v1/messages", {**TALK, **ANSWER}),
    ("/v1/messages", {**SEEN, "stream": True}),
    (COUNT, TALK),
    (COUNT, SEEN),
]
# As JSON texts: some are none that Python writes.
HOSTILE = [
    *("null", "true", "0", "-1", "1.5", "1e308", "1e999", "NaN", "-Infinity"),
    *("9223372036854775808", "-9223372036854775809", "1" * 400, "[]", "[[]]", "[null]", "{}"),
    *('""', '" "', '"x"', '"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', '"<|im_end|>"', '"../x"'),
    *('"' + "x" * 100_000 + '"', "[" * 20_000 + "]" * 20_000, '{"a":' * 200 + "1" + "}" * 200),
    *('{"type":"wizard"}', '{"type":["text"]}', '{"type":"text"}', '[{"type":"text","text":null}]'),
    *(json.dumps(each) for each in (TEXT, [TEXT], PICTURE, [PICTURE], TOOL_USE, [TOOL_USE])),
    *(json.dumps(each) for each in (RESULT, [RESULT], [{**RESULT, "tool_use_id": "nobody"}])),
    '{"type":"object","properties":{"a":{"$ref":"#"}}}',
    '{"type":"object","properties":{"a":{"pattern":"(((a+)+)+)$"}}}',
]
MARK = "HOSTILE HERE"


def places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all values in a body, itself among them."""
    yield before
    inner = value.items() if isinstance(value, dict) else ()
    for key, each in enumerate(value) if isinstance(value, list) else inner:
        yield from places(each, (*before, key))


def with_mark(value: Any, place: tuple[Any, ...]) -> Any:
    """The same with MARK at a place."""
    if not place:
        return MARK
    copy = value.copy()
    copy[place[0]] = with_mark(value[place[0]], place[1:])
    return copy


CASES = [(path, body, place) for path, body in GOOD for place in places(body)]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    store = tmp_path_factory.mktemp("store")
    with (
        serving(n_ctx=1024, n_parallel=1, store=store) as url,
        httpx.Client(base_url=url, timeout=120) as client,
    ):
        yield client


def check(client: httpx.Client, case: tuple[str, Any, tuple[Any, ...]], hostile: str) -> int:
    """Send a body with a hostile value, and check what comes; returns the status."""
    path, body, place = case
    text = json.dumps(with_mark(body, place)).replace(f'"{MARK}"', hostile)
    reply = client.post(path, content=text)
    told = (path, place, hostile[:80], reply.status_code, reply.text[:300])
    assert reply.status_code < 500, told
    if reply.status_code != 200:
        error = reply.json()
        kinds = {"invalid_request_error", *ERROR_TYPES.values()}
        assert error["type"] == "error" and error["error"]["type"] in kinds, told
        assert 0 < len(error["error"]["message"]) < 500, told
    elif reply.headers["content-type"].startswith("text/event-stream"):
        assert "event: message_stop" in reply.text, told
    else:
        assert {"input_tokens", "content"} & reply.json().keys(), told
    return reply.status_code


@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=st.sampled_from(CASES), hostile=st.sampled_from(HOSTILE))
def test_a_hostile_value_is_refused_in_words_or_answered(
    client: httpx.Client, case: tuple[str, Any, tuple[Any, ...]], hostile: str
) -> None:
    check(client, case, hostile)


def test_a_good_request_is_answered_afterwards(client: httpx.Client) -> None:
    for path, body in GOOD:
        assert client.post(path, json=body).status_code == 200
