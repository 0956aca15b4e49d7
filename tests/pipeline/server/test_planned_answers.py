"""What `ask` knows without its model, or asks that in other words, every protocol answers alike."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import skimage
from PIL import Image

from reellama.pipeline.chat.video_chat import VideoChat
from tests.helpers.film import steady, write_film
from tests.helpers.live_server import data_url, serving

pytestmark = pytest.mark.numeric

QUESTIONS = (
    "Does anything move?",
    "How long is the video?",
    "Does it have sound?",
    "Was passiert in dem Video?",
    "What happens?",
    "Who is the main subject?",
)


@pytest.fixture(scope="module")
def cat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A camera that pans over a photograph of a cat."""
    photo = Image.open(Path(skimage.__file__).parent / "data/chelsea.png")
    wide = np.asarray(photo.convert("RGB").resize((420, 280)))
    path = tmp_path_factory.mktemp("films") / "cat.mp4"
    return write_film(path, steady(3), draw=lambda i: wide[:, i : i + 360])


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store = tmp_path_factory.mktemp("store")
    with serving(bundle="mini", n_ctx=512, n_threads=1, n_parallel=1, store=store) as url:
        yield url


@pytest.fixture(scope="module")
def said(cat: Path) -> dict[str, str]:
    """What the command line says."""
    answers = {}
    with VideoChat(cat, n_threads=1, cache=None) as chat:
        for question in QUESTIONS:
            chat.conversation.clear()
            answers[question] = chat.ask(question)
    return answers


def post(url: str, path: str, body: dict[str, Any]) -> list[Any]:
    """The objects of the answer: one, or those of a stream."""
    response = httpx.post(f"{url}{path}", json={"model": "mini", **body}, timeout=120)
    assert response.status_code == 200, response.text
    lines = (line.removeprefix("data: ") for line in response.text.splitlines())
    return [json.loads(line) for line in lines if line.startswith("{")]


def ollama_chat(url: str, video: Path, question: str, stream: bool, **more: bool) -> str:
    data = base64.b64encode(video.read_bytes()).decode()
    message = {"role": "user", "content": question, "videos": [data]}
    body = {"messages": [message], "stream": stream, "options": {"temperature": 0, **more}}
    return "".join(each["message"]["content"] for each in post(url, "/api/chat", body))


def ollama_generate(url: str, video: Path, question: str, stream: bool, **more: bool) -> str:
    data = base64.b64encode(video.read_bytes()).decode()
    options = {"temperature": 0, **more}
    body = {"prompt": question, "videos": [data], "stream": stream, "options": options}
    return "".join(each["response"] for each in post(url, "/api/generate", body))


def openai_chat(url: str, video: Path, question: str, stream: bool, **more: bool) -> str:
    shown = {"type": "video_url", "video_url": {"url": data_url(video)}}
    content = [shown, {"type": "text", "text": question}]
    body = {"messages": [{"role": "user", "content": content}], "temperature": 0, "stream": stream}
    body |= more
    choices = [c for each in post(url, "/v1/chat/completions", body) for c in each["choices"]]
    return "".join(c["delta" if stream else "message"].get("content") or "" for c in choices)


def responses(url: str, video: Path, question: str, stream: bool, **more: bool) -> str:
    shown = {"type": "input_video", "url": data_url(video)}
    content = [shown, {"type": "input_text", "text": question}]
    body = {"input": [{"role": "user", "content": content}], "temperature": 0, "stream": stream}
    body |= more
    found = post(url, "/v1/responses", body)
    if stream:
        return "".join(e["delta"] for e in found if e["type"] == "response.output_text.delta")
    return "".join(part["text"] for item in found[0]["output"] for part in item["content"])


def messages(url: str, video: Path, question: str, stream: bool, **more: bool) -> str:
    data = base64.b64encode(video.read_bytes()).decode()
    source = {"type": "base64", "media_type": "video/mp4", "data": data}
    content = [{"type": "video", "source": source}, {"type": "text", "text": question}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 100}
    found = post(url, "/v1/messages", {**body, "temperature": 0, "stream": stream, **more})
    if stream:
        return "".join(e["delta"]["text"] for e in found if e["type"] == "content_block_delta")
    assert found[0]["stop_reason"] == "end_turn"
    return "".join(part["text"] for part in found[0]["content"])


PROTOCOLS = (ollama_chat, ollama_generate, openai_chat, responses, messages)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("ask", PROTOCOLS, ids=lambda ask: ask.__name__)
def test_every_protocol_answers_as_the_command_line_does(
    ask: Callable[..., str], stream: bool, url: str, cat: Path, said: dict[str, str]
) -> None:
    assert said["Does anything move?"].startswith("I cannot tell")
    assert said["How long is the video?"] == "The file is 3.0 seconds long."
    assert {q: ask(url, cat, q, stream).strip() for q in QUESTIONS} == said


@pytest.mark.parametrize("ask", PROTOCOLS, ids=lambda ask: ask.__name__)
def test_the_model_alone_answers_where_that_is_asked_for(
    ask: Callable[..., str], url: str, cat: Path, said: dict[str, str]
) -> None:
    question = "How long is the video?"
    answer = ask(url, cat, question, False, model_only=True)
    assert answer.strip() not in ("", said[question])
    assert ask(url, cat, question, False, model_only=False).strip() == said[question]


def test_a_server_may_leave_all_answers_to_its_model(
    cat: Path, said: dict[str, str], tmp_path: Path
) -> None:
    question = "How long is the video?"
    settings: dict[str, Any] = {"n_ctx": 512, "n_threads": 1, "store": tmp_path}
    with serving(bundle="mini", model_only=True, **settings) as url:
        answer = ollama_chat(url, cat, question, False)
        assert answer.strip() not in ("", said[question])
        assert ollama_chat(url, cat, question, False, model_only=False) == said[question]


def test_whether_the_model_answers_alone_is_yes_or_no(url: str) -> None:
    body = {"model": "mini", "prompt": "Hi.", "options": {"model_only": "maybe"}}
    reply = httpx.post(f"{url}/api/generate", json=body, timeout=60)
    assert reply.status_code == 400
    assert reply.json()["error"] == 'option "model_only" must be true or false'


def test_an_answer_that_has_a_form_is_the_models_own(url: str, cat: Path) -> None:
    data = base64.b64encode(cat.read_bytes()).decode()
    message = {"role": "user", "content": "How long is the video?", "videos": [data]}
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    body = {"messages": [message], "stream": False, "format": schema}
    (found,) = post(url, "/api/chat", {**body, "options": {"num_predict": 60}})
    assert found["message"]["content"].lstrip().startswith("{")


def test_counts_and_limits_are_those_of_an_answer_of_the_model(url: str, cat: Path) -> None:
    content = [
        {"type": "video_url", "video_url": {"url": data_url(cat)}},
        {"type": "text", "text": "How long is the video?"},
    ]
    body = {"messages": [{"role": "user", "content": content}], "logprobs": True}
    (whole,) = post(url, "/v1/chat/completions", body)
    (cut,) = post(url, "/v1/chat/completions", {**body, "max_tokens": 3})
    assert whole["choices"][0]["finish_reason"] == "stop"
    assert cut["choices"][0]["finish_reason"] == "length"
    assert whole["choices"][0]["message"]["content"] == "The file is 3.0 seconds long."
    text = "".join(each["token"] for each in whole["choices"][0]["logprobs"]["content"])
    assert text.strip() == "The file is 3.0 seconds long."
    assert cut["usage"]["completion_tokens"] == 3 < whole["usage"]["completion_tokens"]
    assert whole["usage"]["prompt_tokens"] > 50
