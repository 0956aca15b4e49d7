"""OpenAI's responses, as the official client sees them on a running server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.helpers.live_server import data_url, serving

WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"town": {"enum": ["Rome", "Oslo"]}},
        "required": ["town"],
    },
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    store = tmp_path_factory.mktemp("store")
    with (
        serving(n_ctx=1024, n_parallel=2, store=store, max_responses=40_000) as url,
        OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=300) as client,
    ):
        yield client


def ask(client: OpenAI, said: Any, **options: Any) -> Any:
    given = {"model": "mini", "max_output_tokens": 8, **options}
    return client.responses.create(input=said, **given)


def test_a_response_is_made_shown_and_deleted(client: OpenAI) -> None:
    made = ask(client, "Say hello.", instructions="Be brief.", metadata={"a": "b"})
    assert made.object == "response" and made.status in ("completed", "incomplete")
    assert made.output_text.strip() and made.metadata == {"a": "b"}
    assert made.usage.output_tokens <= 8
    assert client.responses.retrieve(made.id).output_text == made.output_text
    (item,) = client.responses.input_items.list(made.id).data
    assert item.content == "Say hello."  # type: ignore[union-attr]
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError, match="there is no response"):
        client.responses.retrieve(made.id)


def test_a_conversation_continues_from_a_stored_response(
    client: OpenAI, square_video: Path
) -> None:
    """The video is sent once, and is still seen."""
    shown = [
        {"type": "input_image", "image_url": data_url(square_video)},
        {"type": "input_text", "text": "What happens?"},
    ]
    first = ask(client, [{"role": "user", "content": shown}])
    second = ask(client, "And then?", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    assert second.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens
    alone = ask(client, "And then?")
    assert second.usage.input_tokens > alone.usage.input_tokens + 80


def test_tokens_are_counted_without_an_answer(client: OpenAI) -> None:
    first = ask(client, "Say hello.", instructions="Be brief.")
    told = client.responses.input_tokens.count(
        model="mini", input="Say hello.", instructions="Be brief."
    )
    assert told.object == "response.input_tokens"
    assert told.input_tokens == first.usage.input_tokens
    more = client.responses.input_tokens.count(
        model="mini", input="And then?", previous_response_id=first.id
    )
    assert more.input_tokens > told.input_tokens + first.usage.output_tokens


def test_a_response_is_not_stored_where_store_is_false(client: OpenAI) -> None:
    made = ask(client, "Say hello.", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)
    with pytest.raises(openai.NotFoundError, match="send the whole conversation"):
        ask(client, "And then?", previous_response_id=made.id)


def test_the_oldest_responses_make_room(client: OpenAI) -> None:
    old = ask(client, "Hi.", max_output_tokens=1)
    for _ in range(2):
        ask(client, "Hi.", max_output_tokens=1, metadata={"size": "x" * 30_000})
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(old.id)


def test_a_stream_says_what_the_whole_response_says(client: OpenAI) -> None:
    form: Any = {
        "format": {"type": "json_schema", "name": "x", "schema": {"enum": ["one two three"]}}
    }
    whole = ask(client, "Go.", text=form, max_output_tokens=40)
    assert json.loads(whole.output_text) == "one two three" and whole.status == "completed"
    events = list(ask(client, "Go.", text=form, max_output_tokens=40, stream=True))
    assert [each.sequence_number for each in events] == list(range(len(events)))
    names = [each.type for each in events]
    assert names[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert names[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    said = "".join(each.delta for each in events if each.type == "response.output_text.delta")
    assert said == whole.output_text == events[-1].response.output_text
    assert client.responses.retrieve(events[-1].response.id).output_text == said


def test_a_tool_is_called_and_its_result_is_read(client: OpenAI) -> None:
    options: Any = {"tools": [WEATHER], "max_output_tokens": 100}
    must = {**options, "tool_choice": {"type": "function", "name": "weather"}}
    first = ask(client, "What is the weather in Rome?", **must)
    (call,) = [each for each in first.output if each.type == "function_call"]
    assert call.name == "weather" and json.loads(call.arguments)["town"] in ("Rome", "Oslo")
    events = list(ask(client, "What is the weather in Rome?", stream=True, **must))
    (done,) = [each for each in events if each.type == "response.function_call_arguments.done"]
    assert json.loads(done.arguments) == json.loads(call.arguments)
    result = [{"type": "function_call_output", "call_id": call.call_id, "output": "It rains."}]
    second = ask(client, result, previous_response_id=first.id, **options, tool_choice="none")
    assert second.output[0].type == "message"


def test_a_call_that_the_limit_cut_does_not_end_the_conversation(client: OpenAI) -> None:
    long = {"type": "object", "properties": {"a": {"type": "string", "minLength": 40}}}
    tool = {"type": "function", "name": "f", "parameters": {**long, "required": ["a"]}}
    options: Any = {"tools": [tool], "max_output_tokens": 24}
    first = ask(client, "Call f.", tool_choice="required", **options)
    (call,) = [each for each in first.output if each.type == "function_call"]
    assert first.status == "incomplete" and call.arguments
    with pytest.raises(ValueError, match="Unterminated"):
        json.loads(call.arguments)
    result = [{"type": "function_call_output", "call_id": call.call_id, "output": "Bad JSON."}]
    again = ask(client, result, previous_response_id=first.id, **options, tool_choice="none")
    assert again.output[0].type == "message"


def test_logprobs_come_with_the_words(client: OpenAI) -> None:
    made = ask(client, "Go.", top_logprobs=2, include=["message.output_text.logprobs"])
    part = made.output[0].content[0]
    assert "".join(each.token for each in part.logprobs) == part.text
    assert all(len(each.top_logprobs) == 2 for each in part.logprobs)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"input": [{"role": "wizard", "content": "x"}]}, "input.0.role"),
        ({"input": [{"type": "smell"}]}, "input.0"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
            "input.0.content.0.text",
        ),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format"),
        ({"temperature": 101}, "temperature"),
        ({"input": []}, "input"),
    ],
)
def test_unsupported_options_are_refused_with_a_reason(
    client: OpenAI, changes: dict[str, Any], param: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**{"model": "mini", "input": "Go.", **changes})
    assert caught.value.param == param
