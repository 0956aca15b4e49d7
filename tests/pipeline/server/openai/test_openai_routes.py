"""OpenAI's API, as the official client sees it on a running server."""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai import OpenAI

from reellama.gguf_tools.locate import find
from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.models.bundle import Bundle
from reellama.pipeline.llm.engine import Engine
from reellama.pipeline.llm.prompt import TokenIds
from reellama.pipeline.llm.scoring.token_probabilities import log_softmax
from tests.helpers.live_server import data_url, serving

pytestmark = pytest.mark.numeric

HELLO: list[Any] = [{"role": "user", "content": "Say hello."}]
PROMPT = "Once upon a time there was"


def shaped(schema: dict[str, Any]) -> Any:
    """The response format of this schema."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


# What these let a model say ends where it should, whatever it would rather say.
SENTENCE = shaped({"enum": ["one two three four five"]})
ENDLESS = shaped({"type": "array", "items": {"enum": ["tick", "tock"]}, "minItems": 5000})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the server may read files from."""
    return tmp_path_factory.mktemp("allowed")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with serving(bundle="mini", n_ctx=1024, n_parallel=1, allow_dirs=(folder,)) as url:
        yield url


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def show(url: str, question: str = "What happens?", kind: str = "video_url") -> list[Any]:
    parts = [{"type": kind, kind: {"url": url}}, {"type": "text", "text": question}]
    return [{"role": "user", "content": parts}]


def ask(client: OpenAI, messages: list[Any] = HELLO, **options: Any) -> Any:
    given = {"model": "mini", "max_tokens": 8, **options}
    return client.chat.completions.create(messages=messages, **given)


def test_the_bundle_is_among_the_models(client: OpenAI) -> None:
    assert "mini" in [model.id for model in client.models.list()]
    model = client.models.retrieve("library/mini:latest")
    assert (model.object, model.owned_by) == ("model", "reellama")
    assert model.created > 0
    with pytest.raises(openai.PermissionDeniedError, match="not of this server's store"):
        client.models.delete("mini")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")


def test_a_conversation_about_a_video(client: OpenAI, square_video: Path) -> None:
    talk = show(data_url(square_video))
    first = ask(client, talk)
    assert first.object == "chat.completion"
    assert first.choices[0].message.role == "assistant"
    answer = first.choices[0].message.content
    assert answer.strip()
    talk += [{"role": "assistant", "content": answer}, {"role": "user", "content": "And then?"}]
    second = ask(client, talk)
    assert second.choices[0].message.content.strip()
    assert second.usage.prompt_tokens > first.usage.prompt_tokens


def test_the_video_is_part_of_the_prompt(client: OpenAI, square_video: Path) -> None:
    with_video = ask(client, show(data_url(square_video)))
    without = ask(client, [{"role": "user", "content": "What happens?"}])
    soft_tokens = Bundle.load("mini").tokens
    assert with_video.usage.prompt_tokens >= without.usage.prompt_tokens + soft_tokens


def test_a_stream_says_what_the_whole_answer_says(client: OpenAI, square_video: Path) -> None:
    talk = show(data_url(square_video))
    forced = {"response_format": SENTENCE, "max_tokens": 40}
    whole = ask(client, talk, **forced)
    pieces = list(ask(client, talk, stream=True, stream_options={"include_usage": True}, **forced))
    *texts, last, counts = pieces
    assert texts[0].choices[0].delta.role == "assistant"
    said = "".join(piece.choices[0].delta.content for piece in texts)
    assert said == whole.choices[0].message.content
    assert last.choices[0].finish_reason == whole.choices[0].finish_reason
    assert counts.choices == []
    assert counts.usage == whole.usage
    assert {piece.id for piece in pieces} == {pieces[0].id}
    assert all(piece.usage is None for piece in pieces[:-1])


def test_max_tokens_ends_an_answer_by_length_and_a_stop_string_by_stop(client: OpenAI) -> None:
    short = ask(client, max_tokens=None, max_completion_tokens=3, response_format=ENDLESS)
    assert short.choices[0].finish_reason == "length"
    assert short.usage.completion_tokens == 3
    assert short.usage.total_tokens == short.usage.prompt_tokens + 3
    stopped = ask(client, stop=["three", "never said"], max_tokens=40, response_format=SENTENCE)
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].message.content == '"one two '


def test_the_same_seed_gives_the_same_answer(client: OpenAI) -> None:
    options: dict[str, Any] = {"temperature": 1.5, "top_p": 1.0, "max_tokens": 12}
    ask(client, **options)  # what comes after it reads the last token, and rounds alike
    one, again, *others = (
        ask(client, seed=seed, **options).choices[0].message.content for seed in (1, 1, 2, 3, 4)
    )
    assert one == again
    assert any(other != one for other in others)


def test_logprobs_are_those_of_the_tokens_said(client: OpenAI) -> None:
    choice = ask(client, logprobs=True, top_logprobs=3).choices[0]
    tokens = choice.logprobs.content
    assert "".join(token.token for token in tokens) == choice.message.content
    for token in tokens:
        assert len(token.top_logprobs) == 3
        # The likeliest token was taken, and it is the first of the likeliest.
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob)
        assert sum(math.exp(other.logprob) for other in token.top_logprobs) <= 1 + 1e-6
        assert bytes(token.bytes).decode() == token.token
    assert ask(client).choices[0].logprobs is None


def test_logprobs_have_the_bytes_of_half_a_character(client: OpenAI) -> None:
    forced = {"response_format": shaped({"enum": ["\U0001f98a"]}), "max_tokens": 20}
    choice = ask(client, logprobs=True, top_logprobs=1, **forced).choices[0]
    tokens = choice.logprobs.content
    assert bytes(byte for token in tokens for byte in token.bytes).decode() == '"\U0001f98a"'
    assert choice.message.content == '"\U0001f98a"'
    halves = [token for token in tokens if token.token.startswith("bytes:")]
    assert halves and all(bytes(each.bytes).decode(errors="ignore") == "" for each in halves)


def test_a_bias_keeps_a_token_out(client: OpenAI) -> None:
    first = ask(client, logprobs=True, max_tokens=1).choices[0].logprobs.content[0]
    ids = Tokenizer.from_path(find.smollm2()).encode(first.token)
    other = ask(client, logprobs=True, max_tokens=1, logit_bias={str(ids[0]): -100})
    assert len(ids) == 1
    assert other.choices[0].logprobs.content[0].token != first.token


def test_an_answer_follows_a_json_schema(client: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    answer = ask(client, max_tokens=40, response_format=shaped(schema)).choices[0].message.content
    assert json.loads(answer)["colour"] in ("red", "blue")


def test_any_json_object_is_an_object(client: OpenAI) -> None:
    question = [{"role": "user", "content": "Answer in JSON: what is the capital of France?"}]
    form = {"type": "json_object"}
    choice = ask(client, question, max_tokens=100, response_format=form).choices[0]
    assert choice.message.content.lstrip().startswith("{")
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)


def test_a_completion_goes_on_from_its_prompt(client: OpenAI) -> None:
    options: dict[str, Any] = {"model": "mini", "prompt": PROMPT, "max_tokens": 6}
    client.completions.create(
        **options
    )  # reads all of it; those below read the end, and round alike
    plain = client.completions.create(**options)
    assert plain.choices[0].text.strip()
    assert plain.choices[0].finish_reason == "length"
    answer = client.completions.create(**options, logprobs=2).choices[0]
    assert "".join(answer.logprobs.tokens) == answer.text == plain.choices[0].text
    echoed = client.completions.create(**options, echo=True)
    assert echoed.choices[0].text == PROMPT + plain.choices[0].text
    streamed = client.completions.create(**options, stream=True, echo=True)
    assert "".join(piece.choices[0].text for piece in streamed) == echoed.choices[0].text


def test_an_echoed_prompt_has_log_probabilities_but_for_its_first_token(client: OpenAI) -> None:
    tokenizer = Tokenizer.from_path(find.smollm2())
    prompt = PROMPT + " and 🦊 too" * 13  # more than is scored at a time; characters of many tokens
    ids = tokenizer.encode(prompt)
    options: dict[str, Any] = {"model": "mini", "max_tokens": 1, "echo": True, "logprobs": 2}
    whole = client.completions.create(prompt=prompt, **options)
    assert whole.usage.prompt_tokens == len(ids) > 64
    found, text = whole.choices[0].logprobs, whole.choices[0].text
    assert text.startswith(prompt) and len(found.tokens) == len(ids) + 1
    assert found.token_logprobs[0] is None and found.top_logprobs[0] is None
    assert all(each <= 0 for each in found.token_logprobs[1:])
    assert all(1 <= len(each) <= 2 for each in found.top_logprobs[1:])
    assert found.text_offset[-1] == len(prompt) and found.text_offset == sorted(found.text_offset)
    with Engine(find.smollm2(), lora=Bundle.load("mini").lora) as engine:
        expected = log_softmax(engine.logits_all([TokenIds(tuple(ids))]))
    for i in range(1, len(ids)):
        assert found.token_logprobs[i] == pytest.approx(expected[i - 1, ids[i]], abs=0.05)
    pieces = [*client.completions.create(prompt=ids, stream=True, **options)]
    assert "".join(piece.choices[0].text for piece in pieces) == text
    streamed = [p.choices[0].logprobs for p in pieces if p.choices[0].logprobs]
    offsets = [offset for each in streamed for offset in each.text_offset]
    assert offsets == found.text_offset
    none = client.completions.create(prompt=ids, **{**options, "max_tokens": 0})
    assert none.choices[0].text == prompt and none.usage.completion_tokens == 0
    assert client.completions.create(prompt=ids, **{**options, "logprobs": None}).choices[0].text
    with pytest.raises(openai.BadRequestError, match="positions"):
        client.completions.create(prompt=ids * 20, **options)
    with pytest.raises(openai.BadRequestError, match="suffix"):
        client.completions.create(prompt=prompt, suffix="x", **options)


def test_several_answers_come_side_by_side(client: OpenAI) -> None:
    ends_of_turn = {"0": -100, "2": -100}  # so that every answer has all its tokens
    options: dict[str, Any] = {
        **{"temperature": 1.5, "top_p": 1.0, "max_tokens": 8, "seed": 3},
        "logit_bias": ends_of_turn,
    }
    made = ask(client, n=3, **options)
    assert [choice.index for choice in made.choices] == [0, 1, 2]
    texts = [choice.message.content for choice in made.choices]
    assert len({*texts}) > 1
    assert made.usage.completion_tokens > 8 and made.usage.prompt_tokens < 100
    pieces = list(ask(client, n=2, stream=True, stream_options={"include_usage": True}, **options))
    said = {0: "", 1: ""}
    ends = []
    for choice in (choice for piece in pieces for choice in piece.choices):
        said[choice.index] += choice.delta.content or ""
        ends += [choice.index] if choice.finish_reason else []
    assert sorted(ends) == [0, 1] and all(said.values())
    assert pieces[-1].usage.completion_tokens > 8


def test_several_prompts_are_completed(client: OpenAI) -> None:
    ids = Tokenizer.from_path(find.smollm2()).encode(PROMPT)
    options: dict[str, Any] = {"model": "mini", "max_tokens": 2}
    one = client.completions.create(prompt=PROMPT, **options)
    several = client.completions.create(prompt=[PROMPT, "1, 2, 3,"], n=2, echo=True, **options)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    starts = [choice.text[: len(PROMPT)] for choice in several.choices]
    assert starts[:2] == [PROMPT] * 2 and starts[2].startswith("1, 2, 3,")
    of_ids = client.completions.create(prompt=ids, **options)
    assert of_ids.usage == one.usage
    for wrong in ([], [10**9], ["x"] * 17):
        with pytest.raises(openai.BadRequestError):
            client.completions.create(prompt=wrong, **options)


def test_embeddings_are_unit_vectors_in_both_encodings(client: OpenAI) -> None:
    def vectors(encoding: Any) -> np.ndarray:
        texts = ["a dog", "a cat"]
        given = {"model": "mini", "input": texts, "encoding_format": encoding}
        return np.array([entry.embedding for entry in client.embeddings.create(**given).data])

    floats = vectors("float")
    assert np.linalg.norm(floats, axis=1) == pytest.approx(1, abs=1e-4)
    # Without a format, the client asks for base64 and decodes it.
    assert vectors(openai.omit) == pytest.approx(floats, abs=1e-6)


def test_token_ids_are_embedded_as_their_text_is(client: OpenAI) -> None:
    ids = Tokenizer.from_path(find.smollm2()).encode("a dog")

    def vectors(given: Any, **more: Any) -> np.ndarray:
        found = client.embeddings.create(model="mini", input=given, **more)
        return np.array([entry.embedding for entry in found.data])

    text = vectors("a dog")
    np.testing.assert_allclose(vectors(ids), text, atol=1e-3)
    np.testing.assert_allclose(vectors([ids, ids]), [*text, *text], atol=1e-3)
    short = vectors("a dog", dimensions=8)
    assert short.shape == (1, 8) and np.linalg.norm(short) == pytest.approx(1)
    for wrong in ([10**9], [[-1]], [["a"]], ["a", [1]], []):
        with pytest.raises(openai.BadRequestError):
            vectors(wrong)


def test_a_file_is_read_only_from_an_allowed_folder(
    client: OpenAI, folder: Path, square_video: Path
) -> None:
    inside = folder / "square.mp4"
    inside.write_bytes(square_video.read_bytes())
    assert ask(client, show(inside.as_uri())).choices[0].message.content
    (folder / "link.mp4").symlink_to(square_video)
    escape = f"{folder.as_uri()}/../{square_video.parent.name}/square.mp4"
    for url in (square_video.as_uri(), (folder / "link.mp4").as_uri(), escape):
        with pytest.raises(openai.PermissionDeniedError, match="not in a folder"):
            ask(client, show(url))


def test_an_address_is_fetched_only_from_an_allowed_host(client: OpenAI) -> None:
    with pytest.raises(openai.PermissionDeniedError, match="--allow-url"):
        ask(client, show("http://127.0.0.1/clip.mp4"))


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"n": 17}, "n"),
        ({"temperature": 101}, "temperature"),
        ({"presence_penalty": 1e7}, "presence_penalty"),
        ({"extra_body": {"repeat_penalty": 0}}, "repeat_penalty"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ["x"] * 65}, "stop"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"999999999": 1}}, "logit_bias"),
        ({"stop": ["x" * 20_000]}, "stop"),
        ({"top_logprobs": 2}, None),
        ({"tools": [{"type": "function", "function": {"name": "f"}}] * 2}, None),
        ({"tools": [{"type": "function", "function": {"name": "an f"}}]}, None),
        ({"tool_choice": "required"}, None),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, None),
        ({"reasoning_effort": "high"}, None),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "?"}]}, "messages.0.role"),
        ({"messages": show("data:video/mp4;base64,@@@@")}, None),
        ({"messages": show("/etc/passwd")}, None),
        ({"messages": [{**show("data:,")[0], "role": "assistant"}]}, "messages.0"),
    ],
)
def test_unsupported_options_are_refused_with_a_reason(
    client: OpenAI, options: dict[str, Any], param: str | None
) -> None:
    given = {"model": "mini", "messages": HELLO, **options}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**given)
    assert caught.value.type == "invalid_request_error"
    assert caught.value.param == param
    assert caught.value.body["message"]  # type: ignore[index]


def test_an_error_does_not_repeat_the_video_that_it_is_about(address: str) -> None:
    body = {"model": "mini", "messages": [{"role": "user", "content": {"video": "A" * 100_000}}]}
    answer = httpx.post(f"{address}/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert len(answer.text) < 1000


def test_a_body_that_is_not_json_is_refused(address: str) -> None:
    answer = httpx.post(f"{address}/v1/chat/completions", content=b'{"model": ')
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_model_that_is_not_there_is_not_found(client: OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.NotFoundError) as caught:
            ask(client, model="nothing", stream=stream)
        assert caught.value.code == "model_not_found"


def unfinished(address: str) -> float:
    """How many answers were left before their end."""
    name = 'reellama_dropped_requests_total{reason="unfinished"}'
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_the_only_sequence(
    client: OpenAI, address: str, stream: bool
) -> None:
    options: dict[str, Any] = {"max_tokens": None, "response_format": ENDLESS}
    before = unfinished(address)
    if stream:
        with ask(client, stream=True, **options) as pieces:
            next(iter(pieces))
    else:
        with pytest.raises(openai.APITimeoutError):
            ask(client.with_options(timeout=0.5), **options)
    assert ask(client, max_tokens=1).usage.completion_tokens == 1
    until = time.monotonic() + 60
    while unfinished(address) == before:  # it would have filled the context
        assert time.monotonic() < until
        time.sleep(0.01)
