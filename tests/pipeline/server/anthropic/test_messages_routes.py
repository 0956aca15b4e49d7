"""Anthropic's messages, as its own client sees them on a running server."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import anthropic
import httpx
import pytest
from anthropic import Anthropic
from pydantic import BaseModel

from tests.helpers.live_server import serving

ASKED: dict[str, Any] = {
    "model": "mini",
    "max_tokens": 8,
    "messages": [{"role": "user", "content": "Say hello."}],
}
WEATHER: dict[str, Any] = {
    "name": "weather",
    "description": "The weather of a town.",
    "input_schema": {
        "type": "object",
        "properties": {"town": {"enum": ["Rome", "Oslo"]}},
        "required": ["town"],
    },
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(n_ctx=1024, n_parallel=2, store=tmp_path_factory.mktemp("store")) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[Anthropic]:
    with Anthropic(base_url=url, api_key="none", max_retries=0, timeout=300) as client:
        yield client


def packed(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def test_a_message_is_answered_and_says_what_it_took(client: Anthropic) -> None:
    answer = client.messages.create(**ASKED, system="Be brief.")
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", "mini")
    assert answer.content[0].type == "text" and answer.content[0].text.strip()
    assert answer.usage.output_tokens <= 8 and answer.stop_reason in ("end_turn", "max_tokens")
    # What the KV cache still has is told apart.
    again = client.messages.create(**ASKED, system="Be brief.").usage
    whole = answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0)
    assert again.input_tokens + (again.cache_read_input_tokens or 0) == whole
    assert again.cache_read_input_tokens


class Sighting(BaseModel):
    """What is seen."""

    colour: Literal["red", "blue"]
    moves: bool


def test_an_answer_follows_a_json_schema(client: Anthropic) -> None:
    asked = {**ASKED, "max_tokens": 60}
    parsed = client.messages.parse(**asked, output_format=Sighting).parsed_output
    assert isinstance(parsed, Sighting)
    schema = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"]}
    form = {"type": "json_schema", "schema": schema}
    bodies = ({"output_config": {"effort": "low", "format": form}}, {"output_format": form})
    for body in bodies:
        answer = client.messages.create(**asked, extra_body=body)
        assert json.loads(answer.content[0].text) == {"a": 1}
    nothing = {"output_config": {"format": None}, "output_format": None}
    assert client.messages.create(**ASKED, extra_body=nothing).content


def test_a_stop_sequence_is_told(client: Anthropic) -> None:
    """Whatever is said of hello has one of these, on every processor."""
    likely = [*"aeiouAEIOU!"]
    answer = client.messages.create(**ASKED, stop_sequences=["never said", *likely])
    assert answer.stop_reason == "stop_sequence" and answer.stop_sequence in likely
    text = "".join(part.text for part in answer.content if part.type == "text")
    assert not set(text) & set(likely)


def test_a_stream_says_what_the_whole_answer_says(client: Anthropic) -> None:
    client.messages.create(**ASKED)  # what comes after it reads the last token, and rounds alike
    whole = client.messages.create(**ASKED)
    names = []
    with client.messages.stream(**ASKED) as stream:
        for event in stream:
            names.append(event.type)
        message = stream.get_final_message()
    assert [each for each in names if each != "text"][:2] == [
        "message_start",
        "content_block_start",
    ]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert message.content == whole.content or message.content[0].text == whole.content[0].text  # type: ignore[union-attr]
    assert message.stop_reason == whole.stop_reason
    assert message.usage.output_tokens == whole.usage.output_tokens


def test_a_conversation_about_a_video_and_a_file(client: Anthropic, square_video: Path) -> None:
    source = {"type": "base64", "media_type": "video/mp4", "data": packed(square_video)}
    sent = client.beta.files.upload(file=("square.mp4", square_video.read_bytes(), "video/mp4"))
    assert (sent.type, sent.filename) == ("file", "square.mp4")
    assert sent.id in [each.id for each in client.beta.files.list()]
    text = {"type": "text", "text": "What happens?"}
    took = []
    for shown in (source, {"type": "file", "file_id": sent.id}):
        parts = [{"type": "image", "source": shown, "frames": 4}, text]
        asked: Any = {**ASKED, "messages": [{"role": "user", "content": parts}]}
        took.append(client.messages.count_tokens(model="mini", messages=asked["messages"]))
        said = client.messages.create(**asked).content
        asked["messages"] += [
            {"role": "assistant", "content": [each.model_dump() for each in said]},
            {"role": "user", "content": "And then?"},
        ]
        assert client.messages.create(**asked).content[0].type == "text"
    assert took[0] == took[1] and took[0].input_tokens > 80
    assert client.beta.files.delete(sent.id).type == "file_deleted"


def test_tokens_are_counted_without_an_answer(client: Anthropic) -> None:
    told = client.messages.count_tokens(model="mini", messages=ASKED["messages"])
    usage = client.messages.create(**ASKED).usage
    assert told.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    more = client.messages.count_tokens(model="mini", messages=ASKED["messages"], tools=[WEATHER])  # type: ignore[list-item]
    assert more.input_tokens > told.input_tokens


def test_a_tool_is_called_and_its_result_is_read(client: Anthropic) -> None:
    asked: Any = {
        "model": "mini",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "What is the weather in Rome?"}],
        "tools": [WEATHER],
        "tool_choice": {"type": "tool", "name": "weather"},
    }
    answer = client.messages.create(**asked)
    (call,) = [each for each in answer.content if each.type == "tool_use"]
    assert answer.stop_reason == "tool_use"
    assert call.name == "weather" and call.input in ({"town": "Rome"}, {"town": "Oslo"})
    with client.messages.stream(**asked) as stream:
        content = stream.get_final_message().content
    (streamed,) = [each for each in content if each.type == "tool_use"]
    assert streamed.input == call.input
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "It rains."}
    told = {
        **asked,
        "messages": [
            *asked["messages"],
            {"role": "assistant", "content": [each.model_dump() for each in answer.content]},
            {"role": "user", "content": [result]},
        ],
        "tool_choice": {"type": "none"},
        "max_tokens": 4,
    }
    assert client.messages.create(**told).stop_reason in ("end_turn", "max_tokens")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ({"messages": []}, "messages: "),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages.0.role: Input should be"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages.0.content.0.text: Field required",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "smell"}]}]},
            "messages.0.content.0: Input tag 'smell'",
        ),
        ({"extra_body": {"temperature": 1e9}}, "temperature is 1000000000.0"),
        ({"thinking": {"type": "enabled", "budget_tokens": 5000}}, "thinking"),
        ({"tools": [{"name": "a b", "input_schema": {}}]}, "a tool cannot be named 'a b'"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice: name is given"),
        (
            {"extra_body": {"output_config": {"format": {"type": "json_schema"}}}},
            "output_config.format.schema: Field required",
        ),
    ],
)
def test_unsupported_options_are_refused_with_a_reason(
    client: Anthropic, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(**{**ASKED, **changes})
    assert caught.value.body["error"]["type"] == "invalid_request_error"  # type: ignore[index]
    assert reason in caught.value.body["error"]["message"]  # type: ignore[index]


def test_a_model_that_is_not_there_is_not_found(client: Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        client.messages.create(**{**ASKED, "model": "nothing"})
    assert caught.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]
    names = [each.id for each in client.models.list()]
    assert "mini" in names and client.models.retrieve("mini").type == "model"


def test_a_body_that_is_not_json_is_refused(url: str) -> None:
    reply = httpx.post(f"{url}/v1/messages", content=b"{")
    assert reply.status_code == 400 and "not JSON" in json.dumps(reply.json())
