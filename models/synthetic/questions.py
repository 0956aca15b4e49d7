"""What stories are made of: pictures to cast, an empty scene, and words for what is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from models.synthetic.assets.picture_pool import UNKNOWN, Cast
from models.synthetic.assets.pictures import Picture
from models.synthetic.assets.shapes import COLOURS
from models.synthetic.scene import (
    DIRECTIONS,
    MOTIONS,
    Moving,
    backwards,
)
from models.synthetic.scene_captions import with_article
from models.synthetic.synthetic_clip import Question
from models.vision.imagenet_labels import NAMED, class_names

M = TypeVar("M", bound=Moving)

NUMBERS = ("none", "one", "two", "three", "four", "five")
WAYS = tuple(m.removeprefix("moves ") for m in DIRECTIONS)
# What an actor is doing, as one word of a choice: directions are one action.
ACTIONS = ("moves", *(m for m in MOTIONS if m not in DIRECTIONS))


def sentence(words: str) -> str:
    """With a capital and a full stop."""
    return f"{words[0].upper()}{words[1:]}."


def a_thing(picture: Picture) -> str:
    """What a picture shows, with its article."""
    return picture.kind if picture.kind == UNKNOWN else with_article(picture.kind)


def the_thing(picture: Picture) -> str:
    """What a picture shows, when it is known already."""
    return "it" if picture.kind == UNKNOWN else f"the {picture.kind}"


def say(rng: np.random.Generator, *wordings: str) -> str:
    """One of several ways to put it."""
    return wordings[int(rng.integers(len(wordings)))]


def ask(
    rng: np.random.Generator,
    task: str,
    question: str,
    answer: str,
    others: Sequence[str],
    worded: str,
    most: int = 4,
) -> Question:
    """The answer among up to `most` choices, in random order."""
    wrong = [other for other in dict.fromkeys(others) if other != answer]
    kept = [wrong[i] for i in rng.permutation(len(wrong))[: most - 1]]
    choices = [answer, *kept]
    mixed = tuple(choices[i] for i in rng.permutation(len(choices)))
    return Question(task, question, answer, mixed, worded)


def undecided(
    rng: np.random.Generator, question: str, choices: Sequence[str], worded: str
) -> list[Question]:
    """A question that has no answer, once with each of its choices as the right one.

    Who learns from them all prefers none.
    """
    return [ask(rng, "", question, choice, choices, worded, len(choices)) for choice in choices]


def ways(rng: np.random.Generator, way: str) -> list[str]:
    """Choices for a direction: itself, another one, and the opposite of both.

    Moments in wrong order show a line; either way along it is a choice, and the choices alone do
    not tell which line.
    """
    other = str(rng.choice([other for other in WAYS if other not in (way, _opposite(way))]))
    return [way, _opposite(way), other, _opposite(other)]


def _opposite(way: str) -> str:
    return backwards(f"moves {way}").removeprefix("moves ")


def naming(rng: np.random.Generator, cast: Cast, pictures: Sequence[Picture]) -> list[Question]:
    """Questions about what is there, whatever happens to it."""
    main = pictures[0]
    if main.kind == UNKNOWN:
        return []
    asked = []
    if len({p.kind for p in pictures}) == 1:
        question = say(rng, "What is in the video?", "What can be seen?", "What do you see?")
        others = [a_thing(p) for p in cast.pick(rng, 3)]
        asked.append(
            ask(rng, "object naming", question, a_thing(main), others, sentence(a_thing(main)))
        )
    there = bool(rng.random() < 0.5)
    absent = [n for n in rng.choice(list(cast.names), 3) if all(n not in p.kind for p in pictures)]
    if there or absent:
        noun = a_thing(main) if there else with_article(str(absent[0]))
        question = say(rng, f"Is there {noun} in the video?", f"Does the video show {noun}?")
        answer = "yes" if there else "no"
        worded = f"Yes, there is {noun}." if there else f"No, there is no {noun.split(' ', 1)[1]}."
        asked.append(ask(rng, "object existence", question, answer, ("yes", "no"), worded))
    colour, _, thing = main.kind.partition(" ")
    if colour in COLOURS and thing and len(pictures) == 1:
        question = say(rng, "What colour is it?", f"What colour does the {thing} have?")
        asked.append(ask(rng, "attribute", question, colour, list(COLOURS), f"It is {colour}."))
    return asked


def perhaps(seen: Sequence[int]) -> str:
    """Classes of ImageNet as a guess: "perhaps a tench, a hen or a cock"."""
    *others, last = (with_article(class_names()[number]) for number in seen)
    return f"perhaps {', '.join(others)} or {last}"


def how_many(rng: np.random.Generator, total: int) -> Question:
    """The question for the number of things that are there."""
    many = say(rng, "How many objects are there?", "How many things are in the video?")
    return ask(rng, "count", many, NUMBERS[total], NUMBERS[1:], sentence(NUMBERS[total]), 5)


def motion_alone(moving: int) -> str:
    """What is said of so many things that move, when nothing is known of what they are."""
    return ("nothing moves", "something moves", "several things move")[min(2, moving)]


def moves(actor: Moving) -> bool:
    """Whether anything happens to it."""
    return actor.motion != "stays still"


def in_order(actors: Sequence[M]) -> list[M]:
    """The order in which several things are told: those that move first, each group from left."""
    return sorted(actors, key=lambda actor: (not moves(actor), actor.pose(0.0).x))


def any_classes(rng: np.random.Generator) -> tuple[int, ...]:
    """Classes of ImageNet that a classifier could name."""
    return tuple(int(number) for number in rng.choice(1000, NAMED, replace=False))
