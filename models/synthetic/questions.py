"""What stories are made of: pictures to cast, an empty scene, and words for what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from models.synthetic.assets.backgrounds import random_background
from models.synthetic.assets.picture_variants import patch, tinted
from models.synthetic.assets.pictures import Picture
from models.synthetic.assets.shapes import COLOURS
from models.synthetic.scene import (
    DIRECTIONS,
    MOTIONS,
    Actor,
    Moving,
    Scene,
    backwards,
    overlap,
    random_actor,
    random_motion,
)
from models.synthetic.scene_captions import with_article
from models.vision.imagenet_labels import NAMED, class_names

M = TypeVar("M", bound=Moving)

NUMBERS = ("none", "one", "two", "three", "four", "five")
UNKNOWN = "something"  # the kind of what has no name
WAYS = tuple(m.removeprefix("moves ") for m in DIRECTIONS)
# What an actor is doing, as one word of a choice: directions are one action.
ACTIONS = ("moves", *(m for m in MOTIONS if m not in DIRECTIONS))


@dataclass(frozen=True)
class Question:
    """A question with its choices: `answer` is one of them; `sentence` answers without choices."""

    task: str
    question: str
    answer: str
    choices: tuple[str, ...]
    sentence: str


@dataclass(frozen=True)
class Story:
    """A scene in words: its description, and what can be asked about it."""

    name: str
    scene: Scene
    caption: str
    questions: tuple[Question, ...]
    seen: tuple[int, ...] = ()  # classes of ImageNet that a classifier names here
    photograph: bool = False  # a photograph or a part of one, of which they are told


@dataclass(frozen=True)
class Cast:
    """What a story may use: pictures of one style, names that are asked for in vain, photos, and
    photographs of things that have no name here."""

    pictures: Sequence[Picture]
    names: Sequence[str]
    photos: Sequence[np.ndarray] = ()
    cut_outs: Sequence[Picture] = ()
    tinted: float = 0.15  # share of the pictures that are drawn in shades of one colour

    def pick(self, rng: np.random.Generator, count: int = 1) -> list[Picture]:
        """Pictures of different kinds."""
        found: list[Picture] = []
        while len(found) < count:
            picture = self.pictures[int(rng.integers(len(self.pictures)))]
            if all(picture.kind != other.kind for other in found):
                found.append(picture)
        return [self._tint(rng, p) if rng.random() < self.tinted else p for p in found]

    def unnamed(self, rng: np.random.Generator) -> Picture:
        """A thing out of a photograph: cut out by hand, or a blob of anything."""
        if self.cut_outs and rng.random() < 0.6:
            return self.cut_outs[int(rng.integers(len(self.cut_outs)))]
        return patch(rng, self.photos[int(rng.integers(len(self.photos)))], UNKNOWN)

    def _tint(self, rng: np.random.Generator, picture: Picture) -> Picture:
        if picture.style == "shapes":
            return picture
        return tinted(picture, str(rng.choice(list(COLOURS))))


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


def empty_scene(rng: np.random.Generator, cast: Cast) -> Scene:
    """An empty scene."""
    size = ((192, 192), (256, 192), (344, 192))[int(rng.integers(3))]
    return Scene((), random_background(rng, cast.photos), size, float(rng.uniform(2.0, 10.0)))


def beside(
    rng: np.random.Generator,
    actors: list[Actor],
    picture: Picture,
    side: float,
    size: tuple[int, int],
    motion: str | None = None,
) -> list[Actor]:
    """The actors and one more that keeps out of their way, if there is a place for it."""
    for _ in range(40):
        does = motion or random_motion(rng, picture)
        actor = random_actor(rng, picture, side, size, does)
        if all(overlap(other, actor, size) <= 0.15 * side for other in actors):
            return [*actors, actor]
    return actors


def photograph(rng: np.random.Generator, cast: Cast, scene: Scene) -> Scene:
    """A photograph that fills an empty scene, or something cut out of one, large."""
    if rng.random() < 0.3:
        return replace(scene, background=random_background(rng, cast.photos, p_photo=1.0))
    x, y, side = rng.uniform(0.42, 0.58), rng.uniform(0.42, 0.58), rng.uniform(0.5, 0.9)
    mirrored = bool(rng.random() < 0.5)
    thing = Actor(
        cast.unnamed(rng), "stays still", float(x), float(y), float(side), mirrored=mirrored
    )
    return replace(scene, actors=(thing,))


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
