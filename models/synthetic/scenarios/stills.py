"""Scenarios of stills: single frames, for the names of objects.

A still costs a sixteenth of a clip and trains its hardest part, the names. Its caption is that of
a clip in which nothing moves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from reellama.models.synthetic.assets.picture_pool import PicturePool
from reellama.models.synthetic.layout import add_beside, empty_scene, photograph_scene
from reellama.models.synthetic.questions import (
    count_question,
    description_order,
    guess_text,
    indefinite_name,
    naming_questions,
    pick_wording,
    random_classes,
)
from reellama.models.synthetic.scenarios.count import copies_caption
from reellama.models.synthetic.scenarios.motion import place
from reellama.models.synthetic.scene import Actor
from reellama.models.synthetic.scene_captions import as_sentence
from reellama.models.synthetic.scene_generation import random_actor
from reellama.models.synthetic.synthetic_clip import ClipQuestion, SyntheticClip

STAYS_STILL = "stays still"


def alone(rng: np.random.Generator, pool: PicturePool) -> SyntheticClip:
    """One object, anywhere."""
    scene = empty_scene(rng, pool)
    (picture,) = pool.pick(rng)
    actor = random_actor(rng, picture, rng.uniform(0.2, 0.5), scene.size, STAYS_STILL)
    caption = as_sentence(f"{indefinite_name(picture)} {STAYS_STILL}")
    questions = naming_questions(rng, pool, [picture])
    return SyntheticClip("alone", replace(scene, actors=(actor,)), caption, tuple(questions))


def pair(rng: np.random.Generator, pool: PicturePool) -> SyntheticClip:
    """Two objects of different kinds and sizes."""
    scene = empty_scene(rng, pool)
    first, second = pool.pick(rng, 2)
    main = random_actor(rng, first, rng.uniform(0.3, 0.5), scene.size, STAYS_STILL)
    side = main.size * rng.uniform(0.5, 0.8)
    actors = add_beside(rng, [main], second, side, scene.size, STAYS_STILL)
    caption = as_sentence(
        " and ".join(
            f"{indefinite_name(a.picture)} {STAYS_STILL}" for a in description_order(actors)
        )
    )
    questions = naming_questions(rng, pool, [a.picture for a in actors])
    return SyntheticClip("pair", replace(scene, actors=tuple(actors)), caption, tuple(questions))


def group(rng: np.random.Generator, pool: PicturePool) -> SyntheticClip:
    """Two to four objects of different kinds, described from left to right."""
    scene = empty_scene(rng, pool)
    actors: list[Actor] = []
    side = float(rng.uniform(0.22, 0.3))
    for picture in pool.pick(rng, int(rng.integers(2, 5))):
        actors = add_beside(rng, actors, picture, side, scene.size, STAYS_STILL)
    names = [indefinite_name(a.picture) for a in description_order(actors)]
    caption = as_sentence(f"{' and '.join(names)} {'stay' if len(names) > 1 else 'stays'} still")
    questions = [
        count_question(rng, len(actors)),
        *naming_questions(rng, pool, [a.picture for a in actors]),
    ]
    return SyntheticClip("group", replace(scene, actors=tuple(actors)), caption, tuple(questions))


def copies(rng: np.random.Generator, pool: PicturePool) -> SyntheticClip:
    """Two to five objects of one kind."""
    scene = empty_scene(rng, pool)
    (picture,) = pool.pick(rng)
    side = float(rng.uniform(0.2, 0.28))
    actors: list[Actor] = []
    for _ in range(int(rng.integers(2, 6))):
        actors = add_beside(rng, actors, picture, side, scene.size, STAYS_STILL)
    questions = [count_question(rng, len(actors)), *naming_questions(rng, pool, [picture])]
    caption = as_sentence(copies_caption(actors, STAYS_STILL))
    return SyntheticClip("copies", replace(scene, actors=tuple(actors)), caption, tuple(questions))


def photo(rng: np.random.Generator, pool: PicturePool) -> SyntheticClip:
    """A photograph or a part of one, described by the classes that the classifier reports."""
    if not pool.photos:
        return alone(rng, pool)
    scene = photograph_scene(rng, pool, empty_scene(rng, pool))
    classes = random_classes(rng)
    naming = pick_wording(
        rng, "What is in the video?", "What can be seen?", "What is it?", "What do you see?"
    )
    questions = (ClipQuestion("", naming, "", (), as_sentence(guess_text(classes))),)
    caption = f"A photograph, {guess_text(classes)}."
    return SyntheticClip("photograph", scene, caption, questions, classes, is_photograph=True)


# Every scenario, with its share of the training stills.
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
    pool: PicturePool,
    sampling_weights: Mapping[str, float] = MappingProxyType({}),
) -> SyntheticClip:
    """A still of a random scenario; `sampling_weights` multiply the shares."""
    shares = {n: share * sampling_weights.get(n, 1.0) for n, (_, share) in STILL_SCENARIOS.items()}
    total = sum(shares.values())
    name = str(rng.choice(list(shares), p=[share / total for share in shares.values()]))
    clip = STILL_SCENARIOS[name][0](rng, pool)
    return clip if clip.imagenet_classes else replace(clip, imagenet_classes=random_classes(rng))
