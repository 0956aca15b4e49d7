"""One clip, one truth: all commands read a clip alike, and what they say of it agrees."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import skimage
from PIL import Image

from reellama.models.bundle import Bundle
from reellama.pipeline.chat.footage_limits import asks_beyond_footage
from reellama.pipeline.chat.video_chat import VideoChat
from reellama.pipeline.llm.batching.generation_job import GenerationJob
from reellama.pipeline.long_video.timeline import LongVideo
from reellama.pipeline.video.read_options import VideoReadOptions
from tests.conftest import Result
from tests.helpers.film import steady, write_film

pytestmark = pytest.mark.numeric

PICTURES = Path(skimage.__file__).parent / "data"


class ProjectorInput(NamedTuple):
    """What a bundle's projector gets: what its soft tokens depend on."""

    features: np.ndarray
    times: np.ndarray


@pytest.fixture(scope="module")
def projector_inputs() -> Iterator[list[ProjectorInput]]:
    """What the projectors of bundles get in a test, in order."""
    inputs: list[ProjectorInput] = []
    methods = {name: getattr(Bundle, name) for name in ("project", "interpret")}

    def recorded(name: str) -> Callable[..., object]:
        def method(self: Bundle, features: np.ndarray, times: np.ndarray) -> object:
            inputs.append(ProjectorInput(features, np.asarray(times)))
            return methods[name](self, features, times)

        return method

    for name in methods:
        setattr(Bundle, name, recorded(name))
    yield inputs
    for name, method in methods.items():
        setattr(Bundle, name, method)


@pytest.fixture(scope="module")
def chat() -> Iterator[VideoChat]:
    with VideoChat(n_threads=1, cache=None) as chat:
        yield chat


@pytest.fixture(scope="module")
def long_video() -> Iterator[LongVideo]:
    with LongVideo(n_threads=1, cache=None) as long_video:
        yield long_video


def pan(picture: str, seconds: float, path: Path) -> Path:
    """A camera that pans over a photograph of 900 x 600 pixels: frames larger than any tower's."""
    photo = np.asarray(Image.open(PICTURES / picture).convert("RGB").resize((1100, 600)))
    return write_film(path, steady(seconds), draw=lambda i: photo[:, (left := 2 * i) : left + 900])


@pytest.fixture(scope="module")
def cat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pan("chelsea.png", 9.6, tmp_path_factory.mktemp("films") / "cat.mp4")


@pytest.fixture(scope="module")
def two_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cat, and from 3 s on coffee."""
    photos = [
        np.asarray(Image.open(PICTURES / name).convert("RGB").resize((640, 400)))
        for name in ("chelsea.png", "coffee.png")
    ]
    path = tmp_path_factory.mktemp("films") / "two.mp4"
    return write_film(path, steady(6), draw=lambda i: photos[i >= 30][:, i : i + 560])


def ask(chat: VideoChat, video: Path, question: str | None = None, **part: float) -> str:
    chat.read_options = VideoReadOptions(**part)  # type: ignore[arg-type]
    chat.conversation.videos = []
    chat.conversation.clear()
    chat.add(video)
    return chat.ask(question or chat.bundle.describe)


def same(a: ProjectorInput, b: ProjectorInput) -> bool:
    return np.array_equal(a.features, b.features) and np.allclose(a.times, b.times)


@pytest.mark.parametrize("name", ["demo_video", "cat"])
def test_every_command_sees_the_same_of_a_clip(
    name: str,
    request: pytest.FixtureRequest,
    projector_inputs: list[ProjectorInput],
    chat: VideoChat,
    long_video: LongVideo,
    reellama: Callable[..., Result],
) -> None:
    video: Path = request.getfixturevalue(name)
    projector_inputs.clear()
    described = ask(chat, video)
    (scene,) = long_video.timeline(video).scenes
    inspected = json.loads(reellama("inspect", video, "--json").out)
    by_ask, by_timeline, by_inspect = projector_inputs
    assert same(by_ask, by_timeline) and same(by_ask, by_inspect)
    assert inspected["frames"] == pytest.approx(by_ask.times.tolist(), abs=1e-5)
    if name == "demo_video":  # words that are nearly as likely turn with the last digits of a batch
        assert scene.text == described


def test_a_scene_is_seen_as_that_part_is(
    projector_inputs: list[ProjectorInput], chat: VideoChat, long_video: LongVideo, two_scenes: Path
) -> None:
    projector_inputs.clear()
    scenes = long_video.timeline(two_scenes).scenes
    assert [scene.start for scene in scenes] == pytest.approx([0, 3], abs=0.05)
    for of_scene, scene in zip(list(projector_inputs), scenes, strict=True):
        ask(chat, two_scenes, start=scene.start, end=scene.end)
        assert same(of_scene, projector_inputs[-1])


def test_what_is_drawn_moves_or_does_not_in_every_answer(
    chat: VideoChat, demo_video: Path, reellama: Callable[..., Result]
) -> None:
    said = {q: ask(chat, demo_video, q) for q in ("What moves?", "Does the camera move?")}
    fields = json.loads(reellama("inspect", demo_video, "--json").out)["fields"]
    slots = {field["slot"]: field["text"] for field in fields}
    assert slots["thing 1: motion"] == "moves right" and "moves right" in ask(chat, demo_video)
    assert "right" in said["What moves?"]
    assert slots["camera"] == "stays still" and "still" in said["Does the camera move?"]
    assert slots["thing 1: name"] == "red star" and "red star" in ask(chat, demo_video).lower()


BEYOND = (
    "Does anything move?",
    "What moves?",
    "What is moving in the video?",
    "How many things move?",
    "How many things are there?",
    "Are the people moving?",
    "How many people are there in the video?",
    "Is there any movement?",
    "Does the camera move?",
    "Is the camera still?",
    "What does the camera do?",
    "Which way does it move?",
    "Is everything still?",
)


@pytest.mark.parametrize("question", BEYOND)
def test_motion_of_real_footage_is_never_guessed(
    question: str, chat: VideoChat, cat: Path, demo_video: Path
) -> None:
    if not chat.conversation.videos or chat.conversation.videos[0].path != cat:
        ask(chat, cat, BEYOND[0])
    assert chat.ask(question).startswith("I cannot tell")
    assert asks_beyond_footage(question)


@pytest.mark.parametrize(
    "question",
    [
        "What is the man doing?",
        "What is in the video?",
        "Is there a camera?",
        "Is the man holding a camera?",
        "Is there a moving van?",
        "What is the man moving?",
        "Where is the dog?",
        "How many people wear a hat?",
        "Is a dog still there?",
        "Describe the video.",
    ],
)
def test_what_is_seen_is_asked_of_the_model(question: str) -> None:
    assert not asks_beyond_footage(question)


def test_a_question_about_a_timeline_is_answered_as_ask_does(
    chat: VideoChat, long_video: LongVideo, two_scenes: Path
) -> None:
    for question in ("Does anything move?", "How long is the video?", "Was passiert in dem Film?"):
        (found,) = long_video.ask(two_scenes, question)
        assert found.text == ask(chat, two_scenes, question)
        assert (found.start, found.end) == pytest.approx((0, 6))


@pytest.mark.parametrize("scene", [(0, 3), (3, 6)])
def test_what_happens_and_who_it_is_about_is_what_its_description_says(
    chat: VideoChat, two_scenes: Path, scene: tuple[float, float]
) -> None:
    start, end = scene
    described = ask(chat, two_scenes, start=start, end=end)
    for question in ("What happens?", "What is happening in the video?", "Describe the video."):
        assert chat.ask(question) == described
    assert chat.ask("What happens?", max_tokens=2) in described
    assert [turn.answer for turn in chat.turns[1:4]] == [chat.turns[0].answer] * 3
    chat.ask("Is there a dog?")
    for question in ("Who is the main subject?", "What is the main subject of the video?"):
        subject = chat.ask(question)
        assert subject and described.startswith(subject) and " is " not in subject
    assert "".join(token.text for token in chat.retry()) == subject


def test_each_scene_of_a_timeline_is_described_as_one_asks_about_it(
    long_video: LongVideo, two_scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is computed, not what is written: scenes are read side by side, as they come, so that
    of two words that are nearly as likely now one and now the other is chosen."""
    submit, read = long_video._batcher.submit, list[list[int | bytes]]()

    def recorded(job: GenerationJob) -> None:
        read.append(list(job.prompt.keys))
        submit(job)

    monkeypatch.setattr(long_video._batcher, "submit", recorded)
    scenes = long_video.timeline(two_scenes).scenes
    described, read[:] = read[:], []
    assert len(described) == len(scenes) == 2
    for question in ("What happens?", "Who is the main subject?"):
        found = long_video.ask(two_scenes, question)
        starts = [scene.start for scene in scenes]
        assert read == [described[starts.index(each.start)] for each in found]
        assert all(each.text for each in found)
        read.clear()


def test_what_is_said_is_not_guessed_where_nothing_can_be_read(
    chat: VideoChat, cat: Path, demo_video: Path
) -> None:
    for video in (cat, demo_video):
        assert ask(chat, video, "What is said?").startswith("I cannot tell: sound is not")


def test_of_several_scenes_it_is_said_that_an_answer_is_about_all_of_them(
    reellama: Callable[..., Result], two_scenes: Path, cat: Path, demo_video: Path
) -> None:
    told = reellama("describe", two_scenes, "--threads=1").err
    assert "its scene changes at about 0:03.0: answers are about all of it together" in told
    for one_scene in (cat, demo_video):
        assert "scene" not in reellama("describe", one_scene, "--threads=1").err
    first = reellama("describe", two_scenes, "--threads=1", "--end=3").err
    assert "scene" not in first
