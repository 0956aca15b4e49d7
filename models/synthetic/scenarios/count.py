"""Scenarios of several things of a kind, which are counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from models.synthetic.assets.picture_pool import UNKNOWN, Cast
from models.synthetic.layout import beside, empty_scene
from models.synthetic.questions import (
    NUMBERS,
    a_thing,
    ask,
    motion_alone,
    moves,
    naming,
    say,
    sentence,
)
from models.synthetic.scene import (
    MOTIONS,
    Actor,
)
from models.synthetic.synthetic_clip import Story

NAMELESS = 0.2  # share of the counted things that are cut out of photographs


def count(rng: np.random.Generator, cast: Cast) -> Story:
    """One to five of a kind, some of which move; what they are need not be known."""
    scene = empty_scene(rng, cast)
    (picture,) = cast.pick(rng)
    if cast.cut_outs and rng.random() < NAMELESS:
        picture = cast.unnamed(rng)
    wanted, side = int(rng.integers(1, 6)), float(rng.uniform(0.2, 0.28))
    moving = int(rng.integers(0, wanted + 1)) if rng.random() < 0.7 else 0
    motion = str(
        rng.choice([m for m in MOTIONS if m not in ("stays still", "appears", "disappears")])
    )
    if motion == "spins" and picture.turn_visibility < 0.2:
        motion = "bounces"
    actors: list[Actor] = []
    for number in range(wanted):
        does = motion if number < moving else "stays still"
        actors = beside(rng, actors, picture, side, scene.size, does)
    actors = [actors[i] for i in rng.permutation(len(actors))]
    total = len(actors)
    moving = sum(map(moves, actors))
    many = say(rng, "How many objects are there?", "How many things are in the video?")
    asked = [ask(rng, "count", many, NUMBERS[total], NUMBERS[1:], sentence(NUMBERS[total]), 5)]
    move = say(rng, "How many of them move?", "How many objects move?")
    asked.append(
        ask(rng, "moving count", move, NUMBERS[moving], NUMBERS, sentence(NUMBERS[moving]), 6)
    )
    asked += naming(rng, cast, [picture])
    told = sentence(told_copies(actors, motion))
    return Story("count", replace(scene, actors=tuple(actors)), told, tuple(asked))


def told_copies(actors: Sequence[Actor], motion: str) -> str:
    """Copies of one thing, some of which do `motion`."""
    picture, total, moving = actors[0].picture, len(actors), sum(map(moves, actors))
    if picture.kind == UNKNOWN:
        return motion_alone(moving)
    if total == 1:
        return f"{a_thing(picture)} {actors[0].motion}"
    copies = f"{NUMBERS[total]} copies of {a_thing(picture)}"
    if not moving:
        return f"{copies} stay still"
    return f"{copies}; {NUMBERS[moving]} of them {motion if moving == 1 else _plural(motion)}"


def _plural(motion: str) -> str:
    verb, _, rest = motion.partition(" ")
    return f"{verb.removesuffix('s')} {rest}".strip()
