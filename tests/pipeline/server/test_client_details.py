"""Details of the protocols that clients trip over."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from reellama.pipeline.server.anthropic.messages_schemas import MessagesRequest
from reellama.pipeline.server.openai.openai_schemas import ChatCompletionRequest
from reellama.pipeline.server.request_bodies.json_bodies import InvalidBody, parse_body
from tests.helpers.live_server import serving
from tests.helpers.protocol_requests import MESSAGES, send


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(n_ctx=512, n_parallel=1, store=tmp_path_factory.mktemp("store")) as url:
        yield url


REFUSED = {"role": "assistant", "content": [{"type": "refusal", "refusal": "I may not count."}]}


@pytest.mark.parametrize(
    ("path", "field"), [("/v1/chat/completions", "messages"), ("/v1/responses", "input")]
)
def test_a_refusal_in_the_history_is_text(url: str, path: str, field: str) -> None:
    reply = send(url, path, **{field: [*MESSAGES, REFUSED, *MESSAGES]})
    assert reply.status_code == 200, reply.text
    body = json.dumps({"model": "mini", "messages": [*MESSAGES, REFUSED]}).encode()
    assert parse_body(ChatCompletionRequest, body).messages[1].text == "I may not count."


def document(**source: Any) -> dict[str, Any]:
    return {"type": "document", "source": {"type": "text", "media_type": "text/plain", **source}}


def messages(*blocks: dict[str, Any]) -> Any:
    asked = {"model": "mini", "max_tokens": 1, "messages": [{"role": "user", "content": blocks}]}
    (message,) = parse_body(MessagesRequest, json.dumps(asked).encode()).messages
    return message


def test_a_document_that_is_plain_text_is_text(url: str) -> None:
    named = {**document(data="three, four"), "title": "Numbers"}
    for block, text in ((document(data="three"), "three"), (named, "Numbers\nthree, four")):
        result = {"type": "tool_result", "tool_use_id": "1", "content": [block]}
        for message in (messages(block), messages(result)):
            media = [() for _ in message.media]
            assert [each.content for each in message.as_messages(media)] == [text]
        reply = send(url, "/v1/messages", messages=[{"role": "user", "content": [block]}])
        assert reply.status_code == 200, reply.text


@pytest.mark.parametrize("source", [{}, {"data": None}, {"data": 5}, {"data": {}}])
def test_a_document_without_its_text_is_refused(source: dict[str, Any]) -> None:
    with pytest.raises(InvalidBody, match="text"):
        messages(document(**source))


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
def test_an_answer_of_one_token_has_taken_time(url: str, path: str) -> None:
    reply = send(url, path).json()
    assert reply["eval_count"] == 1
    assert reply["eval_duration"] > 0 and reply["prompt_eval_duration"] > 0


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/v1/models/nothing", "model_not_found"),
        ("DELETE", "/v1/models/nothing", "model_not_found"),
        ("GET", "/v1/nothing", None),
        ("GET", "/v1/files/nothing", None),
        ("GET", "/v1/files/file-" + "0" * 24 + "/content", None),
        ("DELETE", "/v1/files/nothing", None),
        ("GET", "/v1/responses/nothing", None),
        ("DELETE", "/v1/responses/resp_" + "0" * 32, None),
    ],
)
def test_only_a_model_that_is_not_there_is_no_model(
    url: str, method: str, path: str, code: str | None
) -> None:
    reply = httpx.request(method, f"{url}{path}")
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == code


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]
)
def test_a_request_to_no_model_has_the_code_of_that(url: str, path: str) -> None:
    assert send(url, path, model="nothing").json()["error"]["code"] == "model_not_found"
    if path == "/v1/responses":
        reply = send(url, path, previous_response_id="resp_" + "0" * 32)
        assert reply.status_code == 404 and reply.json()["error"]["code"] is None


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_minus_one_token_means_no_limit_and_zero_is_refused(field: str) -> None:
    def asked(n: int) -> Any:
        body = {"model": "mini", "messages": MESSAGES, field: n}
        return getattr(parse_body(ChatCompletionRequest, json.dumps(body).encode()), field)

    assert asked(-1) == -1 and asked(1) == 1
    for n in (0, -2):
        with pytest.raises(InvalidBody, match=f"at least 1 token, not {n}; for no limit give -1"):
            asked(n)


@pytest.mark.parametrize("n", [1, 3])
def test_a_call_that_is_cut_before_its_name_is_no_content(url: str, n: int) -> None:
    tool = {"type": "function", "function": {"name": "weather_of_a_town", "parameters": {}}}
    asked = {"tools": [tool], "tool_choice": "required", "max_tokens": n}
    choice = send(url, "/v1/chat/completions", **asked).json()["choices"][0]
    assert choice["finish_reason"] == "length" and not choice["message"]["content"]
    options = {"tools": [tool], "tool_choice": "required", "options": {"num_predict": n}}
    assert send(url, "/api/chat", **options).json()["message"]["content"] == ""
