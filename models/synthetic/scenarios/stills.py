"""Stills: drawn single pictures in words, which teach the names of things.

A still costs a sixteenth of a clip, and has the names that are the hardest part of a clip. It is
told as a clip in which nothing moves is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from models.synthetic.assets.picture_pool import Cast
from models.synthetic.layout import beside, empty_scene, photograph
from models.synthetic.questions import (
    a_thing,
    any_classes,
    how_many,
    in_order,
    naming,
    perhaps,
    say,
    sentence,
)
from models.synthetic.scenarios.count import told_copies
from models.synthetic.scenarios.motion import place
from models.synthetic.scene import Actor, random_actor
from models.synthetic.synthetic_clip import Question, Story

STILL = "stays still"


def alone(rng: np.random.Generator, cast: Cast) -> Story:
    """One thing, anywhere."""
    scene = empty_scene(rng, cast)
    (picture,) = cast.pick(rng)
    actor = random_actor(rng, picture, rng.uniform(0.2, 0.5), scene.size, STILL)
    told = sentence(f"{a_thing(picture)} {STILL}")
    asked = naming(rng, cast, [picture])
    return Story("alone", replace(scene, actors=(actor,)), told, tuple(asked))


def pair(rng: np.random.Generator, cast: Cast) -> Story:
    """Two different things of different sizes."""
    scene = empty_scene(rng, cast)
    first, second = cast.pick(rng, 2)
    main = random_actor(rng, first, rng.uniform(0.3, 0.5), scene.size, STILL)
    side = main.size * rng.uniform(0.5, 0.8)
    actors = beside(rng, [main], second, side, scene.size, STILL)
    told = sentence(" and ".join(f"{a_thing(a.picture)} {STILL}" for a in in_order(actors)))
    asked = naming(rng, cast, [a.picture for a in actors])
    return Story("pair", replace(scene, actors=tuple(actors)), told, tuple(asked))


def group(rng: np.random.Generator, cast: Cast) -> Story:
    """Two to four different things, from left to right."""
    scene = empty_scene(rng, cast)
    actors: list[Actor] = []
    side = float(rng.uniform(0.22, 0.3))
    for picture in cast.pick(rng, int(rng.integers(2, 5))):
        actors = beside(rng, actors, picture, side, scene.size, STILL)
    names = [a_thing(a.picture) for a in in_order(actors)]
    told = sentence(f"{' and '.join(names)} {'stay' if len(names) > 1 else 'stays'} still")
    asked = [how_many(rng, len(actors)), *naming(rng, cast, [a.picture for a in actors])]
    return Story("group", replace(scene, actors=tuple(actors)), told, tuple(asked))


def copies(rng: np.random.Generator, cast: Cast) -> Story:
    """Two to five of a kind."""
    scene = empty_scene(rng, cast)
    (picture,) = cast.pick(rng)
    side = float(rng.uniform(0.2, 0.28))
    actors: list[Actor] = []
    for _ in range(int(rng.integers(2, 6))):
        actors = beside(rng, actors, picture, side, scene.size, STILL)
    asked = [how_many(rng, len(actors)), *naming(rng, cast, [picture])]
    told = sentence(told_copies(actors, STILL))
    return Story("copies", replace(scene, actors=tuple(actors)), told, tuple(asked))


def photo(rng: np.random.Generator, cast: Cast) -> Story:
    """A photograph or a part of one, with the names that the classifier gives for it."""
    if not cast.photos:
        return alone(rng, cast)
    scene = photograph(rng, cast, empty_scene(rng, cast))
    seen = any_classes(rng)
    what = say(rng, "What is in the video?", "What can be seen?", "What is it?", "What do you see?")
    asked = (Question("", what, "", (), sentence(perhaps(seen))),)
    told = f"A photograph, {perhaps(seen)}."
    return Story("photograph", scene, told, asked, seen, photograph=True)


# Every still, with its share of the training.
STILLS: dict[str, tuple[Callable[[np.random.Generator, Cast], Story], float]] = {
    "alone": (alone, 0.53),
    "place": (place, 0.08),
    "pair": (pair, 0.12),
    "group": (group, 0.1),
    "copies": (copies, 0.07),
    "photograph": (photo, 0.1),
}


def random_still(
    rng: np.random.Generator, cast: Cast, emphasis: Mapping[str, float] = MappingProxyType({})
) -> Story:
    """Any, as often as its share says; `emphasis` multiplies shares."""
    shares = {n: share * emphasis.get(n, 1.0) for n, (_, share) in STILLS.items()}
    total = sum(shares.values())
    name = str(rng.choice(list(shares), p=[share / total for share in shares.values()]))
    story = STILLS[name][0](rng, cast)
    return story if story.seen else replace(story, seen=any_classes(rng))
