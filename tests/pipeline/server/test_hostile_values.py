"""Numbers and texts that no sensible client sends are refused in the words of the protocol."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.helpers.live_server import serving
from tests.helpers.protocol_requests import FIELDS, MESSAGES, error_message, number, send

LONG = "9" * 4299  # digits of an integer, of which json takes 4300
DEEP = '{"a":' + "[" * 20_000


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(n_ctx=512, n_parallel=1, store=tmp_path_factory.mktemp("store")) as url:
        yield url


TAKEN, REFUSED = 200, 400
# What is beyond its bounds is clamped, or refused.
NUMBERS: list[tuple[str, dict[str, Any], int]] = [
    *(
        ("/api/generate", {"options": {name: LONG}}, TAKEN)
        for name in ("top_p", "min_p", "typical_p")
    ),
    *(
        ("/api/generate", {"options": {name: LONG}}, REFUSED)
        for name in ("temperature", "repeat_penalty", "presence_penalty", "frequency_penalty")
    ),
    *(
        ("/api/generate", {"options": {name: LONG}}, REFUSED)
        for name in (
            "fps",
            "start",
            "end",
            "frames",
            "top_k",
            "seed",
            "num_predict",
            "num_ctx",
            "x",
        )
    ),
    ("/api/generate", {"keep_alive": LONG}, TAKEN),
    ("/api/generate", {"keep_alive": f"-{LONG}"}, TAKEN),
    ("/api/generate", {"context": [LONG]}, REFUSED),
    (
        "/api/create",
        {"model": "other", "from": "mini", "parameters": {"temperature": LONG}},
        REFUSED,
    ),
    ("/api/embed", {"dimensions": LONG}, REFUSED),
    ("/v1/chat/completions", {"max_tokens": LONG}, REFUSED),
    ("/v1/chat/completions", {"max_completion_tokens": LONG}, REFUSED),
    ("/v1/chat/completions", {"top_k": LONG}, TAKEN),
    ("/v1/chat/completions", {"top_p": LONG}, REFUSED),
    ("/v1/chat/completions", {"temperature": LONG}, REFUSED),
    ("/v1/chat/completions", {"keep_alive": LONG}, TAKEN),
    ("/v1/chat/completions", {"logit_bias": {"5": LONG}}, REFUSED),
    ("/v1/chat/completions", {"fps": LONG}, REFUSED),
    ("/v1/chat/completions", {"n": LONG}, REFUSED),
    ("/v1/completions", {"max_tokens": LONG}, REFUSED),
    ("/v1/completions", {"prompt": [LONG]}, REFUSED),
    ("/v1/embeddings", {"input": [LONG]}, REFUSED),
    ("/v1/embeddings", {"dimensions": LONG}, REFUSED),
    ("/v1/responses", {"max_output_tokens": LONG}, REFUSED),
    ("/v1/responses", {"top_p": LONG}, REFUSED),
    ("/v1/responses", {"top_k": LONG}, TAKEN),
    ("/v1/messages", {"max_tokens": LONG}, REFUSED),
    ("/v1/messages", {"top_k": LONG}, TAKEN),
    ("/v1/messages", {"thinking": {"type": "enabled", "budget_tokens": LONG}}, REFUSED),
]


def as_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: as_numbers(each) for name, each in value.items()}
    if isinstance(value, list):
        return [as_numbers(each) for each in value]
    return number(value) if value in (LONG, f"-{LONG}") else value


@pytest.mark.parametrize(("path", "fields", "status"), NUMBERS, ids=lambda each: str(each)[:40])
def test_an_integer_of_thousands_of_digits_is_clamped_or_refused(
    url: str, path: str, fields: dict[str, Any], status: int
) -> None:
    reply = send(url, path, **as_numbers(fields))
    assert reply.status_code == status, reply.text[-300:]
    if status == REFUSED:
        assert len(error_message(reply, path)) < 300
    text = json.dumps(fields)
    if "keep_alive" not in text and "from" not in text:  # the same as text, where that is a number
        assert send(url, path, **fields).status_code < 500


def test_a_keep_alive_of_thousands_of_digits_is_accepted_as_text(url: str) -> None:
    for path in ("/api/generate", "/v1/chat/completions"):
        assert send(url, path, keep_alive=LONG).status_code == 200
        refused = send(url, path, keep_alive="x" * 5000)
        assert refused.status_code == 400 and len(error_message(refused, path)) < 300


SCHEMA = {"type": "object", "properties": {"n": {"maximum": 5}}}
FUNCTION = {"name": "f", "parameters": SCHEMA}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"function": {"name": "f", "arguments": {"n": 5}}}],
}
ANYWHERE: list[tuple[str, dict[str, Any]]] = [
    ("/v1/responses", {"tools": [{"type": "function", **FUNCTION}]}),
    ("/v1/responses", {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}}),
    ("/v1/responses", {"tools": [{"type": "function", **FUNCTION}], "stream": True}),
    ("/v1/responses", {"input": [{"role": "user", "content": "x", "more": 5}]}),
    ("/v1/responses", {"top_p": 5}),
    ("/v1/responses", {"temperature": 5}),
    ("/v1/responses", {"nothing": 5}),
    ("/v1/chat/completions", {"tools": [TOOL]}),
    ("/v1/chat/completions", {"chat_template_kwargs": {"a": 5}}),
    ("/v1/chat/completions", {"top_p": 5}),
    ("/v1/messages", {"tools": [{"name": "f", "input_schema": SCHEMA}]}),
    ("/v1/messages", {"top_p": 5}),
    ("/api/chat", {"tools": [TOOL]}),
    ("/api/chat", {"format": SCHEMA}),
    ("/api/chat", {"messages": [*MESSAGES, CALL]}),
    ("/api/chat", {"options": {"nothing": 5}}),
    ("/api/create", {"model": "other", "from": "mini", "parameters": {"nothing": 5}}),
]


def with_number(value: Any, text: str) -> Any:
    """The same with a number in place of each 5."""
    if isinstance(value, dict):
        return {name: with_number(each, text) for name, each in value.items()}
    if isinstance(value, list):
        return [with_number(each, text) for each in value]
    return number(text) if value == 5 and isinstance(value, int) else value


@pytest.mark.parametrize("text", ["1e999", "-1e400", "NaN", "-Infinity", LONG])
@pytest.mark.parametrize(("path", "fields"), ANYWHERE, ids=lambda each: str(each)[:60])
def test_a_number_that_is_not_finite_is_refused_wherever_it_stands(
    url: str, path: str, fields: dict[str, Any], text: str
) -> None:
    reply = send(url, path, **with_number(fields, text))
    assert reply.status_code == 400, reply.text[-300:]
    assert 10 < len(error_message(reply, path)) < 300


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/api/generate", {"options": {"temperature": 5}}),
        ("/v1/chat/completions", {"temperature": 5}),
    ],
)
def test_sampling_that_is_not_finite_is_told_its_bounds(
    url: str, path: str, fields: dict[str, Any]
) -> None:
    for text in ("NaN", "Infinity", "1e400"):
        told = error_message(send(url, path, **with_number(fields, text)), path)
        assert "must lie between 0 and 100" in told


def test_text_that_looks_like_a_number_out_of_range_is_accepted(url: str) -> None:
    text = f"NaN, Infinity, 1e999 and {LONG[:300]}"
    assert send(url, "/v1/responses", input=text, instructions="1e999").status_code == 200


def with_call(path: str, arguments: Any, n: int = 1) -> dict[str, Any]:
    """The fields of a request whose history has calls with these arguments, as text."""
    function = {"name": "f", "arguments": arguments}
    if path == "/v1/responses":
        item = {"type": "function_call", **function}
        return {"input": [*MESSAGES, *({**item, "call_id": f"{i}"} for i in range(n))]}
    calls = [{"id": f"{i}", "type": "function", "function": function} for i in range(n)]
    return {"messages": [*MESSAGES, {"role": "assistant", "content": None, "tool_calls": calls}]}


WRONG_ARGUMENTS = {
    "deep": DEEP,
    "deep list": "[" * 20_000,
    "deep whole": '{"a":' + "[" * 20_000 + "]" * 20_000 + "}",
    "deep objects": '{"a":' * 20_000 + "1" + "}" * 20_000,
    "long": f'{{"a":{LONG}}}',
    "longer": f'{{"a":{LONG * 2}}}',
    "an object": {"a": 1},
    "many lists": '{"a":[' + "[]," * 60_000 + "1]}",
}


# As text they are longer than the context, where they are read at all.
@pytest.mark.parametrize("name", WRONG_ARGUMENTS)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_arguments_that_are_too_much_are_refused(url: str, path: str, name: str) -> None:
    reply = send(url, path, **with_call(path, WRONG_ARGUMENTS[name]))
    assert reply.status_code == 400, reply.text[-300:]
    assert len(error_message(reply, path)) < 300


TAKEN_ARGUMENTS = ["", "{}", None, '{"a": 1.5, "b": [1, "x"]}']
# A call that the token limit cut, or that a model got wrong, is sent back as it is.
TAKEN_AS_TEXT = ['{ "a": "1', " ", "x", "[]", "5", '{"a":1e999}', '{"a":NaN}', "[" * 100]


@pytest.mark.parametrize("arguments", [*TAKEN_ARGUMENTS, *TAKEN_AS_TEXT])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_arguments_that_can_be_read_are_taken(url: str, path: str, arguments: str | None) -> None:
    assert send(url, path, **with_call(path, arguments)).status_code == 200


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/api/chat", {"tools": "DEEP"}),
        ("/api/chat", {"messages": "DEEP"}),
        ("/v1/chat/completions", {"chat_template_kwargs": "DEEP"}),
        ("/v1/responses", {"input": "DEEP"}),
        ("/v1/messages", {"messages": "DEEP"}),
    ],
)
def test_a_body_that_is_deep_is_refused(url: str, path: str, fields: dict[str, Any]) -> None:
    text = json.dumps({"model": "mini", **FIELDS[path], **fields}).replace('"DEEP"', DEEP)
    reply = httpx.post(f"{url}{path}", content=text, timeout=60)
    assert reply.status_code == 400 and error_message(reply, path)


def longest_health(url: str, work: Callable[[], object]) -> float:
    """The longest time that the server's health took to be told while `work` ran, in seconds."""
    longest = 0.0
    with ThreadPoolExecutor(1) as pool, httpx.Client() as client:
        client.get(f"{url}/healthz")
        waiting = pool.submit(work)
        while not waiting.done():
            begin = time.perf_counter()
            client.get(f"{url}/healthz")
            longest = max(longest, time.perf_counter() - begin)
        waiting.result()
    return longest


@pytest.mark.measures
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize(
    "arguments", [f'{{"a":{LONG}}}', json.dumps({"a": [1.25, "b"] * 300})], ids=["long", "many"]
)
def test_thousands_of_calls_let_others_be_answered(url: str, path: str, arguments: str) -> None:
    text = json.dumps({"model": "mini", "max_tokens": 1, **with_call(path, arguments, 3000)})

    def ask() -> None:
        reply = httpx.post(f"{url}{path}", content=text, timeout=120)
        assert reply.status_code == 400, reply.text[:300]

    # Seconds. To read the long ones in one go takes 0.7 on two cores of 2023.
    assert min(longest_health(url, ask) for _ in range(3)) < 0.5
