"""What a file says of itself is not guessed."""

from pathlib import Path

import pytest
from PIL import Image

from reellama.pipeline.chat.file_answers import answer_from_files
from reellama.pipeline.chat.video_chat import VideoChat
from reellama.pipeline.video.clip import Clip, read_frames
from tests.helpers.film import set_display_matrix, steady, write_film


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    path = tmp_path_factory.mktemp("film") / "a.mp4"
    return read_frames(write_film(path, steady(3), sound=3.0), frames=2)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("How long is the video?", "3.0 seconds"),
        ("how long does this clip last", "3.0 seconds"),
        ("What is the duration of the video?", "3.0 seconds"),
        ("What is the resolution?", "160 by 120 pixels"),
        ("What are the dimensions of the video?", "160 by 120 pixels"),
        ("What's the frame rate of the clip?", "10 frames a second"),
        ("How many frames per second does it have?", "10 frames a second"),
        ("What is its frame rate?", "10 frames a second"),
        ("What is the video's resolution?", "160 by 120 pixels"),
        ("What are its dimensions?", "160 by 120 pixels"),
        ("How wide is the video?", "160 by 120 pixels"),
        ("how many pixels is it", "160 by 120 pixels"),
        ("What fps is it?", "10 frames a second"),
        ("What is its length?", "3.0 seconds"),
        ("Resolution?", "160 by 120 pixels"),
        ("Is it silent?", "has sound"),
        ("Does the video have sound?", "has sound"),
        ("Is there any audio in the video?", "has sound"),
    ],
)
def test_questions_about_the_file_are_answered_from_it(clip: Clip, question: str, answer: str):
    assert answer in (answer_from_files(question, [clip]) or "")


@pytest.mark.parametrize(
    "question",
    [
        "How long does the man stand in the video?",
        "How long is the rope in the video?",
        "What is the size of the dog?",
        "How tall is the man in the video?",
        "How big is it?",
        "What is the length of the rope?",
        "Is there a sound source in the video?",
        "What happens in the video?",
    ],
)
def test_questions_about_what_is_shown_go_to_the_model(clip: Clip, question: str):
    assert answer_from_files(question, [clip]) is None


def test_other_files_give_other_answers(clip: Clip, tmp_path: Path):
    path = set_display_matrix(write_film(tmp_path / "b.mp4", steady(0.5)), 0, 1, -1, 0)
    turned = read_frames(path, frames=1)
    assert "120 by 160" in (answer_from_files("What is the resolution?", [turned]) or "")
    assert "has no sound" in (answer_from_files("Does it have sound?", [turned]) or "")
    both = answer_from_files("How long is the video?", [clip, turned])
    assert both == "a.mp4 is 3.0 seconds long. b.mp4 is 0.5 seconds long."


def test_still_pictures_and_folders_of_pictures_are_called_so(clip: Clip, tmp_path: Path):
    Image.new("RGB", (64, 48), "red").save(tmp_path / "a.png")
    still, folder = read_frames(tmp_path / "a.png"), read_frames(tmp_path)
    for question in ("How long is the video?", "What is the frame rate?"):
        assert answer_from_files(question, [still]) == "The file is a still picture."
    assert answer_from_files("Does it have sound?", [still]) == "The file has no sound."
    both = answer_from_files("How long is it?", [clip, folder])
    assert both and both.startswith("a.mp4 is 3.0 seconds long.") and "folder of pictures" in both
    assert answer_from_files("What is the resolution?", [still]) is None


def test_the_chat_keeps_an_answer_from_the_file_as_a_turn(small_bundle: Path, square_video: Path):
    with VideoChat(square_video, bundle=small_bundle, n_threads=1, n_ctx=256) as video_chat:
        assert video_chat.ask("How long is the video?") == "The file is 2.0 seconds long."
        assert [turn.answer for turn in video_chat.turns] == ["The file is 2.0 seconds long."]


def test_the_model_answers_all_questions_where_that_is_asked_for(
    small_bundle: Path, square_video: Path
):
    with VideoChat(
        square_video, bundle=small_bundle, model_only=True, n_threads=1, n_ctx=256
    ) as video_chat:
        answer = video_chat.ask("How long is the video?", max_tokens=4)
        assert answer and not answer.startswith("The file")
