"""Statements about motion and camera, and stills under a camera that is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reellama.models.synthetic.camera import CAMERA_MOVES, Camera
from reellama.pipeline.evaluation.captioned_clips import CaptionedSplit, read_captioned
from reellama.pipeline.evaluation.items import EvalItem
from reellama.pipeline.evaluation.runner import AnsweredItem, ModelReply
from reellama.pipeline.evaluation.tasks.motion_claims import (
    OF_CAMERA,
    OF_MOTION,
    QUESTIONS,
    STILL,
    camera_clip,
    items,
    motion_claims,
    score,
)
from reellama.pipeline.video.clip import read_frames


def claims(answer: str, question: str = "") -> list[str]:
    return [
        f"camera {claim.says}" if claim.about_camera else claim.says
        for claim in motion_claims(answer, question)
    ]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Nothing moves. The camera zooms in.", ["still", "camera in"]),
        ("Several things move. The camera stays still.", ["moves", "camera still"]),
        ("The camera pans left!", ["camera left"]),
        ("The camera doesn't move.", ["camera still"]),
        ("The camera slowly moves closer to the man.", ["camera in"]),
        ("The camera pans across the room.", ["camera moves"]),
        ("A dog moves to the left; it spins.", ["moves", "moves"]),
        ("A cat disappears.", ["moves"]),
        ("A man stays still.", ["still"]),
        # None of these says that the picture or something in it moves.
        ("A dog is running on the grass.", []),
        ("A man with a camera on the left.", []),
        ("A view of a street.", []),
        ("The woman appears to be happy.", []),
        ("Flowers grow in a field.", []),
        ("Two men are shaking hands.", []),
        ("", []),
    ],
)
def test_statements_are_found_sentence_by_sentence(answer: str, expected: list[str]) -> None:
    assert claims(answer) == expected


def test_an_answer_is_read_as_one_to_its_question() -> None:
    assert claims("Left.", OF_CAMERA) == ["camera left"]
    assert claims("It zooms out.", OF_CAMERA) == ["camera out"]
    assert claims("A dog.", OF_MOTION) == ["moves"]
    assert claims("Nothing.", OF_MOTION) == ["still"]
    assert claims("I do not know.", OF_MOTION) == claims("I do not know.", OF_CAMERA) == []


@pytest.mark.parametrize("move", [STILL, *CAMERA_MOVES])
def test_of_what_the_camera_may_do_one_statement_is_true(move: str) -> None:
    for said in (STILL, *CAMERA_MOVES):
        [claim] = motion_claims(said)
        assert claim.is_true(move) == (said == move)
    [claim] = motion_claims("The camera moves.")
    assert claim.is_true(move) == (move != STILL)
    [still], [moves] = motion_claims("Nothing moves."), motion_claims("It moves up.")
    assert still.is_true(move) and not moves.is_true(move)


@pytest.fixture(scope="module")
def photograph(captioned: Path) -> np.ndarray:
    return np.asarray(Image.open(captioned.parent / "coffee-0.png"))


def test_a_camera_that_stands_shows_one_picture(photograph: np.ndarray) -> None:
    frames = camera_clip(photograph, Camera(STILL))
    assert len(frames) > 8 and np.all(frames == frames[0])
    assert frames.shape[1] % 2 == frames.shape[2] % 2 == 0


@pytest.mark.parametrize("move", CAMERA_MOVES)
def test_a_camera_that_moves_ends_elsewhere_and_its_opposite_runs_backwards(
    photograph: np.ndarray, move: str
) -> None:
    turned = {"left": "right", "right": "left", "up": "down", "down": "up", "in": "out"}
    turned |= {"out": "in"}
    first, last = camera_clip(photograph, Camera(move))[[0, -1]]
    assert not np.array_equal(first, last)
    start, _, way = move.rpartition(" ")
    back = camera_clip(photograph, Camera(f"{start} {turned[way]}"))[::-1]
    assert np.abs(back[[0, -1]].astype(int) - [first, last]).mean() < 2


def test_each_photograph_becomes_a_clip_that_is_asked_three_things(
    captioned: Path, tmp_path: Path
) -> None:
    split = CaptionedSplit(read_captioned(captioned), [], 4)
    asked = list(items(split, tmp_path, []))
    assert [item.question for item in asked] == [*QUESTIONS] * 4
    clip = read_frames(asked[0].video, frames=4)
    assert len(clip.frames) == 4 and clip.duration > 3


def answered(move: str, *answers: str) -> list[AnsweredItem]:
    return [
        AnsweredItem(EvalItem("m", question, move, (), Path(move)), ModelReply(False, said), {})
        for question, said in zip(QUESTIONS, answers, strict=True)
    ]


def test_false_statements_are_counted_among_all_that_were_made() -> None:
    right = answered(STILL, "Nothing moves. The camera stays still.", "It stays still.", "Nothing.")
    wrong = answered("the camera pans left", "A cat.", "It pans right.", "A cat moves.")
    row = score([*right, *wrong]).rows["model"]
    assert row["false claims"].value == pytest.approx(2 / 6)
    assert row["claims an answer"].value == 1
    assert row["answers with a false one"].value == pytest.approx(2 / 6)
    assert row["camera right"].value == 0.5


def test_a_description_without_motion_makes_no_false_statement() -> None:
    row = score(answered(STILL, "A cat.", "I do not know.", "")).rows["model"]
    assert str(row["false claims"]) == "" and row["claims an answer"].value == 0
