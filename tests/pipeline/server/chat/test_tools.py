"""Tools in conversations with the server; calls are forced, so that none depends on luck."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import openai
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_ollama import ChatOllama
from pydantic import BaseModel, Field

from tests.helpers.live_server import data_url, serving

SCHEMA = {
    "type": "object",
    "properties": {
        "town": {"type": "string", "enum": ["Bern", "Rome"]},
        "days": {"type": "integer"},
    },
    "required": ["town", "days"],
}
WEATHER = {"name": "get_weather", "description": "The weather of a town.", "parameters": SCHEMA}
TIME = {"name": "get_time", "parameters": {"type": "object", "properties": {}}}
TOOLS: list[Any] = [{"type": "function", "function": each} for each in (WEATHER, TIME)]
THING = {"type": "object", "properties": {"thing": {"enum": ["star", "square"]}}}
DIRECTION = {
    "type": "function",
    "function": {"name": "get_direction", "parameters": {**THING, "required": ["thing"]}},
}
ASKED: dict[str, Any] = {"role": "user", "content": "How is the weather in Rome for 2 days?"}
NAMED = {"type": "function", "function": {"name": "get_time"}}
# A template that opens the reasoning of every answer.
THINKS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{{ '<|im_start|>assistant\n<think>\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '\n</think>\n\n' }}{% endif %}"
)

# Templates of families whose calls are no JSON: how each writes a call.
TAGGED = {
    "qwen3-coder": (
        "<tool_call>\n<function={{ c.name }}>\n{% for k, v in c.arguments.items() %}"
        "<parameter={{ k }}>\n{{ v }}\n</parameter>\n{% endfor %}</function>\n</tool_call>"
    ),
    "gemma": (
        "<start_function_call>call:{{ c.name }}{ {%- for k, v in c.arguments.items() %}{{ k }}:"
        "{% if v is string %}<escape>{{ v }}<escape>{% else %}{{ v|tojson }}{% endif %},"
        "{% endfor %}}<end_function_call>"
    ),
    "lfm2": (
        "<|tool_call_start|>[{{ c.name }}({% for k, v in c.arguments.items() %}{{ k }}="
        "{{ v|tojson }},{% endfor %})]<|tool_call_end|>"
    ),
}
TAGGED_TEMPLATE = (
    "{{ tools }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + (m.content or '') }}"
    "{% for t in m.tool_calls or () %}{% set c = t.function %}CALL{% endfor %}<|im_end|>\n"
    "{% endfor %}<|im_start|>assistant\n"
)
NOTE = {
    "name": "note",
    "parameters": {
        "type": "object",
        "properties": {"text": {"type": "string", "minLength": 200}},
        "required": ["text"],
    },
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(n_ctx=1024, store=tmp_path_factory.mktemp("store")) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def ask(client: openai.OpenAI, messages: list[Any], **options: Any) -> Any:
    given = {"model": "mini", "max_tokens": 80, "tools": TOOLS, **options}
    return client.chat.completions.create(messages=messages, **given)


def test_a_call_and_its_result_in_openais_protocol(client: openai.OpenAI) -> None:
    choice = ask(client, [ASKED], tool_choice="required", parallel_tool_calls=False).choices[0]
    (call,) = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    arguments = json.loads(call.function.arguments)
    if call.function.name == "get_weather":
        assert arguments["town"] in ("Bern", "Rome") and isinstance(arguments["days"], int)
    result = {"role": "tool", "tool_call_id": call.id, "content": "Sunny."}
    words: dict[str, Any] = {"tool_choice": "none", "max_tokens": 4}
    whole = ask(client, [ASKED, choice.message, result], **words)
    assert whole.choices[0].message.content and whole.choices[0].message.tool_calls is None
    without = ask(client, [ASKED], **words)
    assert whole.usage.prompt_tokens > without.usage.prompt_tokens


def test_a_tool_that_is_named_is_called(client: openai.OpenAI) -> None:
    choice = ask(client, [ASKED], tool_choice=NAMED, parallel_tool_calls=False).choices[0]
    assert [call.function.name for call in choice.message.tool_calls] == ["get_time"]


@pytest.mark.parametrize("family", TAGGED)
def test_a_call_in_tags_that_the_limit_cuts_is_told_and_its_conversation_goes_on(
    url: str, client: openai.OpenAI, family: str
) -> None:
    template = TAGGED_TEMPLATE.replace("CALL", TAGGED[family])
    made = {"model": family, "from": "mini", "template": template, "stream": False}
    assert httpx.post(f"{url}/api/create", json=made, timeout=60).status_code == 200
    options: Any = {"model": family, "tools": [{"type": "function", "function": NOTE}]}
    for n in (1, 2, 4, 40):
        choice = ask(client, [ASKED], tool_choice="required", max_tokens=n, **options).choices[0]
        assert choice.finish_reason == "length" and not choice.message.content
    (call,) = choice.message.tool_calls
    assert call.function.name == "note" and call.function.arguments.startswith("{")
    result = {"role": "tool", "tool_call_id": call.id, "content": "That is no JSON."}
    again = [ASKED, choice.message, result]
    assert ask(client, again, tool_choice="none", max_tokens=2, **options).choices


def test_a_stream_tells_of_a_call_piece_by_piece(client: openai.OpenAI) -> None:
    weather = {"type": "function", "function": {"name": "get_weather"}}
    options = {"tool_choice": weather, "parallel_tool_calls": False}
    chunks = list(ask(client, [ASKED], stream=True, **options))
    deltas = [d for c in chunks for d in c.choices[0].delta.tool_calls or ()]
    assert deltas[0].id and deltas[0].function.name == "get_weather"
    assert {delta.index for delta in deltas} == {0} and len(deltas) > 3
    assert not any(delta.id or delta.function.name for delta in deltas[1:])
    assert json.loads("".join(d.function.arguments for d in deltas)).keys() == {"town", "days"}
    assert [c.choices[0].finish_reason for c in chunks][-1] == "tool_calls"


def test_with_tools_an_answer_may_be_words_or_follow_a_schema(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"]}
    shape = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    for form in (None, shape):
        message = ask(client, [ASKED], response_format=form or openai.omit).choices[0].message
        if form and not message.tool_calls:
            assert json.loads(message.content) == {"a": 1}
        assert message.tool_calls or message.content


def test_openais_client_talks_about_a_video(client: openai.OpenAI, demo_video: Path) -> None:
    video = {"type": "video_url", "video_url": {"url": data_url(demo_video)}}
    asked = {"role": "user", "content": [video, {"type": "text", "text": "What happens?"}]}
    one = {"tool_choice": NAMED, "parallel_tool_calls": False}
    message = ask(client, [asked], **one).choices[0].message
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": "12:00"} for call in message.tool_calls
    ]
    again = {"role": "user", "content": "What happens in the video?"}
    answer = ask(client, [asked, message, *results, again], tool_choice="none")
    assert "star" in answer.choices[0].message.content.lower()


def test_ollamas_client_talks_about_a_video(url: str, demo_video: Path) -> None:
    client = ollama.Client(url)
    talk: list[Any] = [
        {"role": "user", "content": "What happens?", "images": [demo_video.read_bytes()]}
    ]
    options = {"tool_choice": "required", "num_predict": 40}
    first = client.chat("mini", talk, tools=[DIRECTION], options=options).message
    assert first.tool_calls and first.tool_calls[0].function.name == "get_direction"
    streamed = client.chat("mini", talk, tools=[DIRECTION], stream=True, options=options)
    parts = [part for part in streamed if part.message.tool_calls]
    assert parts[0].message.tool_calls[0].function.arguments["thing"] in ("star", "square")  # type: ignore[index]
    results = [
        {"role": "tool", "tool_name": call.function.name, "content": "It moves right."}
        for call in first.tool_calls
    ]
    question = {"role": "user", "content": "What happens in the video?"}
    last = client.chat("mini", [*talk, first, *results, question], options={"num_predict": 40})
    assert "star" in (last.message.content or "").lower()


class Sighting(BaseModel):
    """What is seen."""

    colour: str = Field(max_length=10, pattern="^(red|blue|green)$")
    moves: bool


def test_langchain_calls_tools_and_fills_a_form(url: str, demo_video: Path) -> None:
    model = ChatOllama(model="mini", base_url=url, num_predict=80)
    picture = {"type": "image_url", "image_url": data_url(demo_video)}
    shown: list[Any] = [HumanMessage([{"type": "text", "text": "What happens?"}, picture])]
    options = {"tool_choice": "required", "num_predict": 80}
    called: Any = model.bind_tools(TOOLS).invoke(shown, options=options)
    assert called.tool_calls and {"name", "args", "id"} <= called.tool_calls[0].keys()
    results = [ToolMessage("12:00", tool_call_id=call["id"]) for call in called.tool_calls]
    again = HumanMessage("What happens in the video?")
    assert "star" in str(model.invoke([*shown, called, *results, again]).content).lower()
    found = model.with_structured_output(Sighting).invoke(shown)
    assert isinstance(found, Sighting) and found.colour in ("red", "blue", "green")


def test_a_model_s_thinking_comes_apart_from_its_answer(url: str) -> None:
    ask: dict[str, Any] = {"model": "thinker", "messages": [ASKED], "options": {"num_predict": 12}}
    made = {"model": "thinker", "from": "mini", "template": THINKS, "stream": False}
    assert httpx.post(f"{url}/api/create", json=made, timeout=60).status_code == 200
    shown = httpx.post(f"{url}/api/show", json={"model": "thinker"}).json()
    assert {"thinking", "tools", "completion"} <= set(shown["capabilities"])

    def message(**more: Any) -> dict[str, Any]:
        reply = httpx.post(f"{url}/api/chat", json={**ask, "stream": False, **more}, timeout=60)
        found: dict[str, Any] = reply.json()["message"]
        return found

    for think in (None, True, "high"):
        found = message(think=think)
        assert found["thinking"] and not found["content"]
    found = message(think=False)
    assert found["content"] and "thinking" not in found
    with httpx.stream("POST", f"{url}/api/chat", json=ask, timeout=60) as reply:
        lines = [json.loads(line) for line in reply.iter_lines()]
    assert any(line["message"].get("thinking") for line in lines)
    said: dict[str, Any] = {"model": "thinker", "prompt": "Hi.", "stream": False}
    reply = httpx.post(f"{url}/api/generate", json={**said, "options": {"num_predict": 12}})
    assert reply.json()["thinking"] and reply.json()["response"] == ""


def test_reasoning_effort_is_thinking_in_openais_protocol(url: str, client: openai.OpenAI) -> None:
    made = {"model": "thinker2", "from": "mini", "template": THINKS, "stream": False}
    assert httpx.post(f"{url}/api/create", json=made, timeout=60).status_code == 200
    options: Any = {"model": "thinker2", "tools": openai.omit, "max_tokens": 12}
    whole = ask(client, [ASKED], **options).choices[0].message
    assert whole.reasoning_content and not whole.content
    chunks = list(ask(client, [ASKED], stream=True, reasoning_effort="low", **options))
    assert any(getattr(c.choices[0].delta, "reasoning_content", None) for c in chunks)
    assert ask(client, [ASKED], reasoning_effort="none", **options).choices[0].message.content


def test_a_template_is_told_variables_of_a_request(url: str, client: openai.OpenAI) -> None:
    made = {"model": "thinker3", "from": "mini", "template": THINKS, "stream": False}
    assert httpx.post(f"{url}/api/create", json=made, timeout=60).status_code == 200
    options: Any = {"model": "thinker3", "tools": openai.omit, "max_tokens": 4}

    def asked(variables: dict[str, Any], **more: Any) -> Any:
        body = {"chat_template_kwargs": variables}
        return ask(client, [ASKED], extra_body=body, **options, **more).choices[0].message

    assert asked({}).content == "" and asked({"enable_thinking": False}).content
    assert asked({"enable_thinking": False}, reasoning_effort="low").content
    bad: list[dict[str, Any]] = [{"messages": []}, {"bos_token": ""}, {"x": "y" * 20_000}]
    for wrong in bad:
        with pytest.raises(openai.BadRequestError, match="chat_template_kwargs"):
            asked(wrong)


@pytest.mark.parametrize("think", [True, "high"])
def test_a_model_that_cannot_think_says_so(url: str, think: bool | str) -> None:
    asked = {"model": "mini", "messages": [ASKED], "think": think}
    reply = httpx.post(f"{url}/api/chat", json=asked)
    assert (reply.status_code, reply.json()) == (
        400,
        {"error": '"mini" does not support thinking'},
    )
    wrong = httpx.post(f"{url}/api/chat", json={**asked, "think": "a lot"})
    assert wrong.status_code == 400 and "invalid think value" in wrong.json()["error"]


def test_editors_find_the_fields_that_they_read_at_startup(url: str) -> None:
    version = httpx.get(f"{url}/api/version").json()["version"]
    assert [int(part) for part in version.split(".")] >= [0, 6, 4]
    listed = httpx.get(f"{url}/api/tags").json()["models"]
    (mini,) = [each for each in listed if each["name"] == "mini:latest"]
    shown = httpx.post(f"{url}/api/show", json={"model": "mini"}).json()
    assert mini["capabilities"] == shown["capabilities"]
    assert {"completion", "vision", "tools"} <= set(shown["capabilities"])
    info = shown["model_info"]
    architecture = info["general.architecture"]
    assert info[f"{architecture}.context_length"] and info["general.parameter_count"] > 10**8
    (loaded,) = httpx.get(f"{url}/api/ps").json()["models"][:1]
    assert loaded["context_length"] == 1024
