"""Several videos: each can be asked about by its place, and is described by itself."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reellama.pipeline.chat.question_text import videos_in_question
from reellama.pipeline.chat.video_chat import VideoChat
from tests.conftest import Result
from tests.helpers.film import steady, write_film


@pytest.mark.parametrize(
    ("question", "meant", "asked"),
    [
        ("What happens in the second video?", "b", "What happens in the video?"),
        ("Describe the First clip.", "a", "Describe the clip."),
        ("What is in the last video?", "c", "What is in the video?"),
        ("Is the second animal red?", "abc", "Is the second animal red?"),
        ("Is the first video like the second video?", "abc", None),
        ("What happens in the fourth video?", "abc", None),
    ],
)
def test_the_video_that_is_named_is_meant(question: str, meant: str, asked: str | None):
    assert videos_in_question(question, "abc") == (list(meant), asked or question)


@given(question=st.text())
def test_one_video_is_always_meant(question: str):
    assert videos_in_question(question, "a") == (["a"], question)


def test_a_question_about_the_second_video_is_one_about_it_alone(
    square_video: Path, small_bundle: Path, tmp_path: Path
):
    other = write_film(tmp_path / "other.mp4", steady(1))
    with VideoChat(square_video, other, bundle=small_bundle, n_threads=1, n_ctx=512) as video_chat:
        both = video_chat.conversation.prompt("What happens in the second video?")
        assert video_chat.ask("How long is the second video?") == "The file is 1.0 seconds long."
        video_chat.conversation.videos = video_chat.videos[1:]
        alone = video_chat.conversation.prompt("What happens in the video?")
        assert str(both) == str(alone)


def test_each_video_is_described_under_its_name(
    reellama: Callable[..., Result],
    square_video: Path,
    small_bundle: Path,
    endless: Path,
    tmp_path: Path,
):
    other = write_film(tmp_path / "other.mp4", steady(1))
    small = [f"--bundle={small_bundle}", "--threads=1", "--n-ctx=512", "--max-tokens=6"]
    small.append(f"--grammar={endless}")
    alone = [reellama("describe", path, *small).out.strip() for path in (square_video, other)]
    both = reellama("describe", square_video, other, *small).out
    assert both.splitlines() == [f"square.mp4: {alone[0]}", f"other.mp4: {alone[1]}"]
