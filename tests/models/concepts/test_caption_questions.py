"""Questions that captions answer: only what is sure, and as many with no as with yes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from reellama.models.concepts.caption_questions import (
    MOTION_QUESTIONS,
    questions,
)
from reellama.models.concepts.caption_things import Things, find_things
from reellama.models.concepts.vocabulary import build_vocabulary

ANIMALS = ("dog", "cat", "horse", "bird")
PLACES = ("beach", "field", "street", "park")
VIDEOS = [
    [
        f"a {animal} runs on the {place}",
        f"a brown {animal} running",
        f"a {animal} is on a {place}",
        f"a {animal} in the sun",
    ]
    for animal in ANIMALS
    for place in PLACES
] * 2
FORMS = build_vocabulary(VIDEOS, 100).forms


@pytest.fixture(scope="module")
def things() -> Things:
    return find_things(VIDEOS, FORMS)


def asked(captions: list[str], things: Things, seed: int = 0) -> dict[str, str]:
    rng = np.random.default_rng(seed)
    return dict(questions(captions, things, FORMS, rng, max_questions=20))


def test_things_are_nouns_and_what_includes_them(things: Things) -> None:
    assert {*ANIMALS, "beach", "animal"} <= set(things.names)
    assert not {"brown", "run", "runs", "sun"} & set(things.names)


def test_who_where_and_which_colour(things: Things) -> None:
    found = asked(VIDEOS[0], things)
    assert found["What colour is the dog?"] == "Brown."
    assert found["Where is it?"] == "On the beach."
    subjects = [answer for question, answer in found.items() if question.startswith("Wh")]
    assert "A dog." in subjects or "A brown dog." in subjects


def test_what_the_first_thing_does_as_a_caption_says_it(things: Things) -> None:
    captions = ["A dog in the sun is chasing a cat.", "a dog is running across the whole big beach"]
    found = Counter(turn for seed in range(60) for turn in asked(captions, things, seed).items())
    doing = {turn: count for turn, count in found.items() if "doing" in turn[0]}
    assert set(doing) == {
        ("What is the dog doing?", "Chasing a cat."),
        ("What is the animal doing?", "Chasing a cat."),  # so that "animal" means a yes as well
    }
    assert min(doing.values()) > 10
    assert not any("doing" in question for question in asked(["a dog is brown"], things))


def test_a_thing_that_is_not_there_has_no_colour(things: Things) -> None:
    found = [turn for seed in range(60) for turn in asked(VIDEOS[0], things, seed).items()]
    denied = {question for question, answer in found if answer.startswith("I see no ")}
    assert "What is the cat doing?" in denied and "What colour is the street?" in denied
    assert not any("dog" in question or "animal" in question for question in denied)
    assert "What is the street doing?" not in denied


def test_there_is_no_subject_called_there(things: Things) -> None:
    assert "A dog." in asked(["There is a dog on a field"], things).values()


def test_how_many_where_a_caption_counts() -> None:
    videos = [*VIDEOS, *[["two dogs run"]] * 3]
    forms = build_vocabulary(videos, 100).forms
    things, rng = find_things(videos, forms), np.random.default_rng(0)
    found = questions(["two dogs run"], things, forms, rng, max_questions=20)
    assert ("How many dogs are there?", "Two.") in found


def test_as_many_answers_are_no_as_yes(things: Things) -> None:
    counts: Counter[str] = Counter()
    for seed in range(20):
        for captions in VIDEOS:
            found = asked(captions, things, seed)
            counts.update(a for q, a in found.items() if q.startswith("Is there"))
    assert counts["Yes."] == counts["No."] > 100


def test_yes_is_said_by_captions_and_no_by_none(things: Things) -> None:
    for seed in range(10):
        for captions in VIDEOS[: len(ANIMALS) * len(PLACES)]:
            text = " ".join(captions)
            for question, answer in asked(captions, things, seed).items():
                if question.startswith("Is there"):
                    name = question.removesuffix("?").split()[-1]
                    present = any(word in text for word in things.includes[name])
                    assert answer == ("Yes." if present else "No.")


def test_few_captions_do_not_say_what_is_missing(things: Things) -> None:
    for seed in range(20):
        found = asked(["a dog runs on the beach"], things, seed)
        assert not [q for q in found if q.startswith("Is there")]


def test_a_wider_word_leaves_a_narrower_one_open(things: Things) -> None:
    captions = ["an animal in a field"] * 4
    for seed in range(20):
        assert "Is there a dog?" not in asked(captions, things, seed)


def test_what_moves_is_not_guessed(things: Things) -> None:
    found = [
        answer
        for seed in range(40)
        for question, answer in asked(VIDEOS[0], things, seed).items()
        if question in MOTION_QUESTIONS
    ]
    assert set(found) == {"I cannot tell."} and 3 < len(found) < 30
