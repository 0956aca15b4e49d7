"""Stills: drawn single pictures in words, which teach the names of things.

A still costs a sixteenth of a clip, and has the names that are the hardest part of a clip. It is
told as a clip in which nothing moves is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from models.synthetic.assets.picture_pool import PicturePool
from models.synthetic.layout import add_beside, empty_scene, photograph_scene
from models.synthetic.questions import (
    as_sentence,
    count_question,
    description_order,
    guess_text,
    indefinite_name,
    naming_questions,
    pick_wording,
    random_classes,
)
from models.synthetic.scenarios.count import copies_caption
from models.synthetic.scenarios.motion import place
from models.synthetic.scene import Actor, random_actor
from models.synthetic.synthetic_clip import ClipQuestion, SyntheticClip

STAYS_STILL = "stays still"


def alone(rng: np.random.Generator, cast: PicturePool) -> SyntheticClip:
    """One thing, anywhere."""
    scene = empty_scene(rng, cast)
    (picture,) = cast.pick(rng)
    actor = random_actor(rng, picture, rng.uniform(0.2, 0.5), scene.size, STAYS_STILL)
    told = as_sentence(f"{indefinite_name(picture)} {STAYS_STILL}")
    asked = naming_questions(rng, cast, [picture])
    return SyntheticClip("alone", replace(scene, actors=(actor,)), told, tuple(asked))


def pair(rng: np.random.Generator, cast: PicturePool) -> SyntheticClip:
    """Two different things of different sizes."""
    scene = empty_scene(rng, cast)
    first, second = cast.pick(rng, 2)
    main = random_actor(rng, first, rng.uniform(0.3, 0.5), scene.size, STAYS_STILL)
    side = main.size * rng.uniform(0.5, 0.8)
    actors = add_beside(rng, [main], second, side, scene.size, STAYS_STILL)
    told = as_sentence(
        " and ".join(
            f"{indefinite_name(a.picture)} {STAYS_STILL}" for a in description_order(actors)
        )
    )
    asked = naming_questions(rng, cast, [a.picture for a in actors])
    return SyntheticClip("pair", replace(scene, actors=tuple(actors)), told, tuple(asked))


def group(rng: np.random.Generator, cast: PicturePool) -> SyntheticClip:
    """Two to four different things, from left to right."""
    scene = empty_scene(rng, cast)
    actors: list[Actor] = []
    side = float(rng.uniform(0.22, 0.3))
    for picture in cast.pick(rng, int(rng.integers(2, 5))):
        actors = add_beside(rng, actors, picture, side, scene.size, STAYS_STILL)
    names = [indefinite_name(a.picture) for a in description_order(actors)]
    told = as_sentence(f"{' and '.join(names)} {'stay' if len(names) > 1 else 'stays'} still")
    asked = [
        count_question(rng, len(actors)),
        *naming_questions(rng, cast, [a.picture for a in actors]),
    ]
    return SyntheticClip("group", replace(scene, actors=tuple(actors)), told, tuple(asked))


def copies(rng: np.random.Generator, cast: PicturePool) -> SyntheticClip:
    """Two to five of a kind."""
    scene = empty_scene(rng, cast)
    (picture,) = cast.pick(rng)
    side = float(rng.uniform(0.2, 0.28))
    actors: list[Actor] = []
    for _ in range(int(rng.integers(2, 6))):
        actors = add_beside(rng, actors, picture, side, scene.size, STAYS_STILL)
    asked = [count_question(rng, len(actors)), *naming_questions(rng, cast, [picture])]
    told = as_sentence(copies_caption(actors, STAYS_STILL))
    return SyntheticClip("copies", replace(scene, actors=tuple(actors)), told, tuple(asked))


def photo(rng: np.random.Generator, cast: PicturePool) -> SyntheticClip:
    """A photograph or a part of one, with the names that the classifier gives for it."""
    if not cast.photos:
        return alone(rng, cast)
    scene = photograph_scene(rng, cast, empty_scene(rng, cast))
    seen = random_classes(rng)
    what = pick_wording(
        rng, "What is in the video?", "What can be seen?", "What is it?", "What do you see?"
    )
    asked = (ClipQuestion("", what, "", (), as_sentence(guess_text(seen))),)
    told = f"A photograph, {guess_text(seen)}."
    return SyntheticClip("photograph", scene, told, asked, seen, photograph=True)


# Every still, with its share of the training.
STILL_SCENARIOS: dict[
    str, tuple[Callable[[np.random.Generator, PicturePool], SyntheticClip], float]
] = {
    "alone": (alone, 0.53),
    "place": (place, 0.08),
    "pair": (pair, 0.12),
    "group": (group, 0.1),
    "copies": (copies, 0.07),
    "photograph": (photo, 0.1),
}


def random_still_clip(
    rng: np.random.Generator,
    cast: PicturePool,
    emphasis: Mapping[str, float] = MappingProxyType({}),
) -> SyntheticClip:
    """Any, as often as its share says; `emphasis` multiplies shares."""
    shares = {n: share * emphasis.get(n, 1.0) for n, (_, share) in STILL_SCENARIOS.items()}
    total = sum(shares.values())
    name = str(rng.choice(list(shares), p=[share / total for share in shares.values()]))
    story = STILL_SCENARIOS[name][0](rng, cast)
    return story if story.seen else replace(story, seen=random_classes(rng))
