"""Who answers a question: a vision GGUF is asked itself unless the video's file is meant."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reellama.pipeline.chat.answer_plan import plan_answer
from reellama.pipeline.chat.conversation import Video
from reellama.pipeline.chat.subtitle_answers import NOT_HEARD
from reellama.pipeline.video.clip import Clip
from reellama.pipeline.video.source import FileFacts
from reellama.pipeline.video.subtitles import Subtitle

LINES = (Subtitle(0.0, 2.0, "Hello."),)


class AnyBundle:
    """What a plan asks of a bundle."""

    name, describe = "any", "Describe the video."
    languages: tuple[str, ...] = ()

    def __init__(self, *, reads_text: bool) -> None:
        self.reads_text = reads_text


TRAINED, VISION_GGUF = AnyBundle(reads_text=False), AnyBundle(reads_text=True)


def video(duration: float = 12.0, subtitles: Sequence[Subtitle] = ()) -> Video:
    frames, times = [np.zeros((120, 160, 3), np.uint8)], np.zeros(1)
    facts = FileFacts(160, 120, 10.0, has_sound=True) if duration else None
    clip = Clip(frames, times, duration, Path("a.mp4"), (), facts, tuple(subtitles))
    return Video(Path("a.mp4"), [], clip, "")


def answer(question: str, bundle: Any, *videos: Video) -> str | None:
    return plan_answer(question, videos or [video()], bundle).answer


@pytest.mark.parametrize(
    "question",
    [
        "How long is it?",
        "What is its length?",
        "What are the dimensions?",
        "Does it have sound?",
        "Is it silent?",
        "What is the resolution?",
    ],
)
def test_a_vision_gguf_is_asked_what_may_be_about_what_is_shown(question: str) -> None:
    assert answer(question, TRAINED)
    assert answer(question, VISION_GGUF) is None
    assert answer(question, VISION_GGUF, video(0.0)) is None


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("How long is the video?", "The file is 12.0 seconds long."),
        ("What is the resolution of this clip?", "The file is 160 by 120 pixels."),
        ("What is the video's frame rate?", "The file has 10 frames a second."),
        ("Does the recording have sound?", "The file has sound, which is not listened to."),
        ("How long is the file?", "The file is 12.0 seconds long."),
    ],
)
def test_what_names_the_video_is_answered_from_its_file(question: str, said: str) -> None:
    assert answer(question, TRAINED) == answer(question, VISION_GGUF) == said


def test_one_of_several_videos_may_be_named() -> None:
    both = (video(), video(3.0))
    said = answer("How long is the second video?", VISION_GGUF, *both)
    assert said == "The file is 3.0 seconds long."


def test_subtitles_tell_a_vision_gguf_what_is_said_and_not_what_it_says() -> None:
    talk = video(subtitles=LINES)
    for question in ("What is said?", "What does the man say?", "Show the subtitles."):
        assert answer(question, VISION_GGUF, talk) == 'The subtitles say: 0:00.0 "Hello.".'
    assert answer("What does it say?", TRAINED, talk) == 'The subtitles say: 0:00.0 "Hello.".'
    assert answer("What does it say?", VISION_GGUF, talk) is None


def test_what_is_said_in_a_picture_may_be_written_in_it() -> None:
    assert answer("What does the man say?", VISION_GGUF) == NOT_HEARD
    assert answer("What does the man say?", VISION_GGUF, video(0.0)) is None
    assert answer("What does the man say?", TRAINED, video(0.0)) == NOT_HEARD
