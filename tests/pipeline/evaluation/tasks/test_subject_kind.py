"""Person, animal, vehicle, place or thing: of captions and of answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from reellama.pipeline.evaluation.captioned_clips import CaptionedClip, read_captioned
from reellama.pipeline.evaluation.tasks.concept_words import kind_of
from reellama.pipeline.evaluation.tasks.subject_kind import kind_figures, kind_of_clip


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("A man rides a horse.", "person"),
        ("Two dogs and their owner", "animal"),
        ("A red car, driven by a woman", "vehicle"),
        ("The city at night", "place"),
        ("her laptop on a table", "thing"),
        ("The camera stays still.", None),
        ("Nothing moves.", None),
        ("", None),
    ],
)
def test_the_first_known_word_is_the_subject(text: str, kind: str | None) -> None:
    assert kind_of(text) == kind


def test_a_clip_has_the_kind_on_which_its_captions_agree(captioned: Path) -> None:
    kinds = {clip.video.stem: kind_of_clip(clip) for clip in read_captioned(captioned)}
    assert kinds["astronaut-0"] == "person"
    assert kinds["chelsea-1"] == "animal"
    assert kinds["motorcycle_left-0"] == kinds["rocket-0"] == "vehicle"
    assert kinds["coffee-1"] == "thing"


@pytest.mark.parametrize(
    "captions",
    [
        ("a man and a dog", "a dog and a man", "a car", "a man"),  # no agreement
        ("it happens", "something", "this is it", "a man"),  # hardly any kind
    ],
)
def test_a_clip_whose_captions_do_not_agree_has_none(captions: tuple[str, ...]) -> None:
    assert kind_of_clip(CaptionedClip(Path("x"), captions)) is None


def test_the_usual_kind_for_all_is_right_often_and_in_one_kind_only() -> None:
    truth = ["person"] * 15 + ["animal"] * 5
    usual = kind_figures(["person"] * 20, truth)
    assert usual["right"].value == 0.75
    assert usual["mean of the kinds"].value == 0.5
    all_right = kind_figures(list(truth), truth)
    assert all_right["right"].value == all_right["mean of the kinds"].value == 1


def test_no_answer_is_wrong() -> None:
    assert kind_figures([None, "person"], ["person", "person"])["right"].value == 0.5
