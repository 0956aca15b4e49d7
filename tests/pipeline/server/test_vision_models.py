"""Vision GGUFs served: models that take video, in Ollama's protocol and in OpenAI's."""

from __future__ import annotations

import base64
import io
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import ollama
import openai
import pytest
from PIL import Image

from reellama.gguf_tools.locate.vision_models import VisionModel
from reellama.models.vision_bundle import VisionBundle
from reellama.pipeline.server.model_registry import model_lookup
from reellama.pipeline.server.video_options import video_options
from tests.helpers.live_server import data_url, serving
from tests.helpers.vision_models import FAMILIES
from tests.pipeline.video.test_subtitles import SRT, with_track

N_CTX = 1024


@pytest.fixture(scope="module", params=FAMILIES)
def model(
    request: pytest.FixtureRequest, vision_model: Callable[[str], VisionModel]
) -> VisionModel:
    return vision_model(request.param)


@pytest.fixture(scope="module")
def url(model: VisionModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(
        bundle=str(model.llm),
        n_ctx=N_CTX,
        n_parallel=2,
        n_threads=1,
        cache=tmp_path_factory.mktemp("cache"),
        store=tmp_path_factory.mktemp("store"),
    ) as url:
        yield url


def chat(url: str, model: VisionModel, video: Path, **options: Any) -> dict[str, Any]:
    """Ask about a video in Ollama's protocol: the reply, whatever its status."""
    message = {
        "role": "user",
        "content": "What happens?",
        "videos": [base64.b64encode(video.read_bytes()).decode()],
    }
    body = {
        "model": model.llm.stem,
        "messages": [message],
        "stream": False,
        "options": {"num_predict": 4, **options},
    }
    reply = httpx.post(f"{url}/api/chat", json=body, timeout=60)
    return {"status": reply.status_code, **reply.json()}


def about(video: Path) -> Any:
    """The same question as a message in OpenAI's protocol."""
    shown = {"type": "video_url", "video_url": {"url": data_url(video)}}
    return {"role": "user", "content": [shown, {"type": "text", "text": "What happens?"}]}


@pytest.mark.parametrize("model", ["gemma3"], indirect=True)
def test_show_says_that_it_takes_pictures_and_video(url: str, model: VisionModel) -> None:
    shown = ollama.Client(url).show(model.llm.stem)
    assert shown.capabilities is not None
    assert {"vision", "video"} <= set(shown.capabilities)


def test_both_protocols_answer_the_same_about_a_video(
    url: str, model: VisionModel, square_video: Path
) -> None:
    reply = chat(url, model, square_video)
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    answer = client.chat.completions.create(
        model=model.llm.stem,
        max_tokens=4,
        messages=[about(square_video)],
    )
    assert answer.choices[0].message.content == reply["message"]["content"]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == reply["prompt_eval_count"]


@pytest.mark.parametrize("model", ["gemma3"], indirect=True)
def test_subtitles_in_the_file_stand_beside_it_unless_they_are_off(
    url: str, model: VisionModel, square_video: Path, tmp_path: Path
) -> None:
    """As an option of the request in Ollama's protocol, as one in OpenAI's, and as a part's."""
    talk = with_track(square_video, tmp_path / "talk.mkv", SRT, "srt")
    silent = chat(url, model, talk, subtitles="off")["prompt_eval_count"]
    assert chat(url, model, talk)["prompt_eval_count"] > silent
    # Of what is said, a part of the video has its own.
    part = chat(url, model, talk, start=0, end=0.5)["prompt_eval_count"]
    assert part == chat(url, model, talk, start=0, end=0.5, subtitles="off")["prompt_eval_count"]
    refused = chat(url, model, talk, subtitles="loud")
    assert refused["status"] == 400 and "subtitles are auto or off" in refused["error"]

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")

    def n_prompt(extra: dict[str, Any], **said: Any) -> int:
        message = about(talk)
        message["content"][0].update(said)
        reply = client.chat.completions.create(
            model=model.llm.stem, max_tokens=1, messages=[message], extra_body=extra
        )
        assert reply.usage is not None
        return reply.usage.prompt_tokens

    assert n_prompt({"subtitles": "off"}) == n_prompt({}, subtitles="off") == silent
    assert n_prompt({}) > silent


def test_a_conversation_about_a_video_goes_on(
    url: str, model: VisionModel, square_video: Path
) -> None:
    client = ollama.Client(url)
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "What is it?", "images": [square_video]},
    ]
    first = client.chat(model.llm.stem, messages, options={"num_predict": 4})
    messages += [
        {"role": "assistant", "content": first.message.content},
        {"role": "user", "content": "And then?"},
    ]
    second = client.chat(model.llm.stem, messages, options={"num_predict": 4})
    assert second.prompt_eval_count and first.prompt_eval_count
    assert second.prompt_eval_count > first.prompt_eval_count


def test_two_at_once_answer_as_one_after_the_other(
    url: str, model: VisionModel, square_video: Path
) -> None:
    alone = chat(url, model, square_video)["message"]["content"]
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: chat(url, model, square_video), range(2)))
    assert [reply["message"]["content"] for reply in both] == [alone, alone]


def test_each_request_chooses_its_frames_and_tokens(
    url: str, model: VisionModel, square_video: Path
) -> None:
    few, many = (
        chat(url, model, square_video, tokens=tokens)["prompt_eval_count"] for tokens in (64, 200)
    )
    assert many - few > 32
    one = chat(url, model, square_video, frames=1)
    assert one["status"] == 200 and one["prompt_eval_count"] < many
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    answer = client.chat.completions.create(
        model=model.llm.stem,
        max_tokens=4,
        messages=[about(square_video)],
        extra_body={"tokens": 64},
    )
    assert answer.usage is not None and answer.usage.prompt_tokens == few


@pytest.mark.parametrize("model", ["gemma3"], indirect=True)
def test_a_model_that_is_unloaded_takes_its_tower_along(
    url: str, model: VisionModel, square_video: Path
) -> None:
    assert chat(url, model, square_video, frames=3)["status"] == 200
    (bundle,) = [each for key, each in model_lookup._opened.items() if key[0] == str(model.llm)]
    assert isinstance(bundle, VisionBundle) and bundle.unloaded_bytes == 0
    tower = weakref.ref(bundle.tower)
    unload = {"model": model.llm.stem, "keep_alive": 0}
    assert httpx.post(f"{url}/api/generate", json=unload, timeout=60).status_code == 200
    until = time.monotonic() + 30
    while tower() is not None:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert bundle.unloaded_bytes == model.mmproj.stat().st_size
    assert chat(url, model, square_video, frames=2)["status"] == 200


@pytest.mark.parametrize("model", ["gemma3"], indirect=True)
def test_the_server_has_defaults_of_its_own_for_what_a_request_leaves_out(
    url: str, model: VisionModel, square_video: Path, tmp_path: Path
) -> None:
    default = video_options({"fps": 1, "tokens": 64, "pooling": "full"})
    settings: dict[str, Any] = {"n_ctx": N_CTX, "n_threads": 1, "cache": None, "store": tmp_path}
    with serving(bundle=str(model.llm), video=default, **settings) as other:
        own = chat(other, model, square_video)["prompt_eval_count"]
        few = chat(url, model, square_video, fps=1, tokens=64, pooling="full")
        assert own == few["prompt_eval_count"]
        # What is said of frames takes the place of all that the server would say of them.
        said = {"sampling": "uniform", "frames": 8, "tokens": 200, "pooling": "subsample"}
        both = [chat(each, model, square_video, **said) for each in (other, url)]
        assert both[0]["prompt_eval_count"] == both[1]["prompt_eval_count"] != own
    with serving(video=default, **settings) as other:  # `mini` has its one number of tokens
        assert chat(other, VisionModel(Path("mini"), Path()), square_video)["status"] == 200


@pytest.mark.parametrize("model", ["gemma3"], indirect=True)
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"pooling": "best"}, "no pooling named 'best'"),
        ({"tokens": 0}, "0 tokens"),
        ({"tokens": "many"}, '"tokens" must be a whole number'),
        ({"frames": 100000}, "at most 256"),
        ({"start": -1}, "start must be 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    url: str, model: VisionModel, square_video: Path, options: dict[str, Any], reason: str
) -> None:
    reply = chat(url, model, square_video, **options)
    assert reply["status"] == 400 and reason in reply["error"]


def asked_about(url: str, model: VisionModel, pictures: list[bytes]) -> int:
    """Positions of a question about pictures that come in one message."""
    message = {"role": "user", "content": "What is it?", "images": pictures}
    reply = ollama.Client(url).chat(model.llm.stem, [message], options={"num_predict": 1})
    assert reply.prompt_eval_count
    return reply.prompt_eval_count


@pytest.fixture(scope="module")
def stills() -> list[bytes]:
    """Pictures of two shapes, as files."""
    rng = np.random.default_rng(0)
    files = []
    for width in (112, 168):
        picture = Image.fromarray(rng.integers(0, 256, (112, width, 3), dtype=np.uint8))
        picture.save(file := io.BytesIO(), "PNG")
        files.append(file.getvalue())
    return files


def test_pictures_of_one_message_are_shown_one_by_one(
    url: str, model: VisionModel, stills: list[bytes]
) -> None:
    """Only frames of one video may become one picture, or get a time and one size."""
    none, first, second = (asked_about(url, model, some) for some in ([], stills[:1], stills[1:]))
    apart = (first - none) + (second - none)
    assert abs(asked_about(url, model, stills) - none - apart) <= 1  # a word between them


@pytest.mark.parametrize("model", ["qwen2.5vl"], indirect=True)
def test_many_pictures_share_the_context(url: str, model: VisionModel, stills: list[bytes]) -> None:
    assert asked_about(url, model, stills * 8) < N_CTX
    with pytest.raises(ollama.ResponseError, match="18 pictures and videos in one message"):
        asked_about(url, model, stills * 9)
