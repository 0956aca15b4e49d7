"""Questions in pairs: the same one of a clip with the thing and of one without."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reellama.pipeline.evaluation.captioned_clips import CaptionedClip, CaptionedSplit
from reellama.pipeline.evaluation.runner import AnsweredItem, ModelReply
from reellama.pipeline.evaluation.tasks.concept_words import THINGS
from reellama.pipeline.evaluation.tasks.yes_no_pairs import Pair, pairs, score

DOG = {thing.name: thing for thing in THINGS}["a dog"]


def clip(name: str, *captions: str) -> CaptionedClip:
    return CaptionedClip(Path(name), captions)


def asked(*clips: CaptionedClip, question: str = "Is there a dog?") -> list[tuple[str, str]]:
    """The clips of each pair that is made of that question."""
    made = pairs(CaptionedSplit(list(clips), [], 100))
    return [(p.yes.video.name, p.no.video.name) for p in made if p.yes.question == question]


WITH = clip("with", "a dog runs", "a puppy plays", "the dog is brown", "something moves")
WITHOUT = clip("without", "a woman sings", "a singer", "a lady with a guitar", "a woman")


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("Two DOGS, running.", True),
        ("a hotdog", False),
        ("an animal runs", None),
        ("a pet dog", True),
        ("a woman sings", False),
    ],
)
def test_a_caption_says_yes_or_no_or_leaves_it_open(caption: str, expected: bool | None) -> None:
    assert DOG.in_caption(caption) is expected


def test_no_word_both_says_a_thing_and_leaves_it_open() -> None:
    doubtful = {
        thing.name: thing.words & thing.open_words
        for thing in THINGS
        if thing.words & thing.open_words
    }
    assert doubtful == {}


def test_a_pair_is_a_clip_with_and_a_clip_without() -> None:
    assert asked(WITH, WITHOUT) == [("with", "without")]


@pytest.mark.parametrize(
    "unsure",
    [
        clip("few", "a woman", "a woman sings"),  # might not mention everything
        clip("open", "an animal", "a creature walks", "it walks", "someone"),
        clip("one", "a dog walks by", "a woman sings", "a lady", "a woman"),
    ],
)
def test_a_clip_that_may_have_it_is_not_one_without(unsure: CaptionedClip) -> None:
    assert asked(WITH, unsure) == []


def test_one_caption_of_many_is_not_enough_for_yes() -> None:
    some = clip("some", "a dog and a woman", "a woman", "a woman sings", "a lady")
    assert asked(some, WITHOUT) == []


@given(st.lists(st.sampled_from(["cat", "dog", "horse", "woman", "man"]), min_size=2, max_size=25))
def test_answers_are_balanced_and_no_clip_is_asked_the_same_twice(kinds: list[str]) -> None:
    clips = [clip(f"{i}", *[f"a {kind} is seen"] * 4) for i, kind in enumerate(kinds)]
    made = pairs(CaptionedSplit(clips, [], 30))
    assert len(made) <= 30
    for pair in made:
        assert (pair.yes.answer, pair.no.answer) == ("yes", "no")
        assert pair.yes.question == pair.no.question and pair.yes.video != pair.no.video
    questions = [(item.question, item.video) for pair in made for item in (pair.yes, pair.no)]
    assert len(set(questions)) == len(questions)


def answer(pair: Pair, p_yes: tuple[float, float]) -> list[AnsweredItem]:
    """What one says who finds yes so likely of the clip with the thing, and of the one without."""
    found = []
    for item, p in zip((pair.yes, pair.no), p_yes, strict=True):
        right = (p > 0.5) == (item.answer == "yes")
        reply = ModelReply(right, "Yes." if p > 0.5 else "No.", right, (p, 1 - p))
        found.append(AnsweredItem(item, reply, {"no video": reply}))
    return found


def figures(*p_yes: tuple[float, float]) -> dict[str, float]:
    many = [clip(f"{i}", *WITH.captions) for i in range(len(p_yes))]
    few = [clip(f"-{i}", *WITHOUT.captions) for i in range(len(p_yes))]
    made = [p for p in pairs(CaptionedSplit(many + few, [], 999)) if "dog" in p.yes.question]
    replies = [each for pair, p in zip(made, p_yes, strict=True) for each in answer(pair, p)]
    found = score(made, replies)
    assert found.rows["no video"] == found.rows["model"]
    return {name: figure.value for name, figure in found.rows["model"].items()}


def test_perfect_answers_get_all_pairs() -> None:
    found = figures((1.0, 0.0), (1.0, 0.0))
    assert found == {"both right": 1, "right": 1, "both likelier": 1, "calibration error": 0}


def test_always_yes_gets_half_the_answers_and_no_pair() -> None:
    found = figures((1.0, 1.0), (1.0, 1.0))
    assert (found["both right"], found["right"], found["calibration error"]) == (0, 0.5, 0.5)


def test_a_pair_with_an_unread_clip_does_not_count() -> None:
    [pair] = (p for p in pairs(CaptionedSplit([WITH, WITHOUT], [], 99)) if "dog" in p.yes.question)
    assert score([pair], answer(pair, (0.9, 0.2))[:1]).of == "0 pairs"
