"""The scenario of several objects of one kind, to be counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from reellama.models.synthetic.assets.picture_pool import UNNAMED, PicturePool
from reellama.models.synthetic.layout import add_beside, empty_scene
from reellama.models.synthetic.questions import (
    NUMBER_WORDS,
    choice_question,
    count_question,
    indefinite_name,
    is_moving,
    motion_caption,
    naming_questions,
    pick_wording,
)
from reellama.models.synthetic.scene import MOTIONS, Actor
from reellama.models.synthetic.scene_captions import as_sentence
from reellama.models.synthetic.synthetic_clip import SyntheticClip

UNNAMED_SHARE = 0.2  # probability of unnamed objects, cut out of photographs


def count(rng: np.random.Generator, pool: PicturePool) -> SyntheticClip:
    """One to five objects of a kind, some of which move; the kind may have no name."""
    scene = empty_scene(rng, pool)
    (picture,) = pool.pick(rng)
    if pool.cut_outs and rng.random() < UNNAMED_SHARE:
        picture = pool.unnamed_picture(rng)
    n_objects, side = int(rng.integers(1, 6)), float(rng.uniform(0.2, 0.28))
    moving = int(rng.integers(0, n_objects + 1)) if rng.random() < 0.7 else 0
    motion = str(
        rng.choice([m for m in MOTIONS if m not in ("stays still", "appears", "disappears")])
    )
    if motion == "spins" and picture.turn_visibility < 0.2:
        motion = "bounces"
    actors: list[Actor] = []
    for number in range(n_objects):
        own_motion = motion if number < moving else "stays still"
        actors = add_beside(rng, actors, picture, side, scene.size, own_motion)
    actors = [actors[i] for i in rng.permutation(len(actors))]
    total = len(actors)
    moving = sum(map(is_moving, actors))
    questions = [count_question(rng, total)]
    question = pick_wording(rng, "How many of them move?", "How many objects move?")
    answer = NUMBER_WORDS[moving]
    questions.append(
        choice_question(rng, "moving count", question, answer, NUMBER_WORDS, as_sentence(answer), 6)
    )
    questions += naming_questions(rng, pool, [picture])
    caption = as_sentence(copies_caption(actors, motion))
    return SyntheticClip("count", replace(scene, actors=tuple(actors)), caption, tuple(questions))


def copies_caption(actors: Sequence[Actor], motion: str) -> str:
    """The caption of copies of one object, some of which do `motion`."""
    picture, total, moving = actors[0].picture, len(actors), sum(map(is_moving, actors))
    if picture.kind == UNNAMED:
        return motion_caption(moving)
    if total == 1:
        return f"{indefinite_name(picture)} {actors[0].motion}"
    copies = f"{NUMBER_WORDS[total]} copies of {indefinite_name(picture)}"
    if not moving:
        return f"{copies} stay still"
    return f"{copies}; {NUMBER_WORDS[moving]} of them {motion if moving == 1 else _plural(motion)}"


def _plural(motion: str) -> str:
    verb, _, direction = motion.partition(" ")
    return f"{verb.removesuffix('s')} {direction}".strip()
