"""Random scenes of one or two actors with random motions, which stay inside the frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reellama.models.synthetic.assets.backgrounds import random_background
from reellama.models.synthetic.assets.pictures import Picture
from reellama.models.synthetic.scene import DIRECTIONS, MOTIONS, Actor, Scene

# The motions of `random_scene`: no diagonals.
AXIS_MOTIONS = tuple(motion for motion in MOTIONS if " and " not in motion)
# A picture that rotation changes less than this (a ball, a ring) never spins.
MIN_TURN_VISIBILITY = 0.2


def random_scene(
    rng: np.random.Generator,
    pictures: Sequence[Picture],
    *,
    photos: Sequence[np.ndarray] = (),
    size: tuple[int, int] = (224, 224),
    p_two: float = 0.3,
    picture: Picture | None = None,
    motion: str | None = None,
) -> Scene:
    """A scene of one actor, or of two with a probability of up to `p_two`.

    The second actor is smaller and of another kind. It is left out where the main one would hide
    it. picture, motion: of the main actor; None for random ones.
    """
    main_picture = picture or pictures[int(rng.integers(len(pictures)))]
    two = rng.random() < p_two
    # Larger beside a second actor, so that the smaller second one is not too small.
    main_side = rng.uniform(0.33 if two else 0.25, 0.5)
    main = random_actor(rng, main_picture, main_side, size, motion)
    actors = [main]
    if two:
        second_picture = pictures[int(rng.integers(len(pictures)))]
        if second_picture.kind != main_picture.kind:
            actors += _second_actor(rng, second_picture, main, size)
    background = random_background(rng, photos)
    return Scene(tuple(actors), background, size, float(rng.uniform(2.0, 10.0)))


def _second_actor(
    rng: np.random.Generator, picture: Picture, main: Actor, size: tuple[int, int]
) -> list[Actor]:
    """A list of one actor that hardly overlaps the main one; empty if 16 tries find no place."""
    for _ in range(16):
        side = main.size * rng.uniform(0.45, 0.6)
        actor = random_actor(rng, picture, side, size, None)
        if overlap(main, actor, size) <= 0.2 * side:
            return [actor]
    return []


def overlap(first: Actor, second: Actor, size: tuple[int, int]) -> float:
    """The deepest overlap of two actors' squares over time, in shares of the short side.

    size: width and height of the frame in pixels.
    """
    short = min(size)
    deepest = 0.0
    for step in range(9):
        a, b = first.pose(step / 8), second.pose(step / 8)
        reach = (a.size + b.size) / 2
        apart_x = abs(a.x - b.x) * size[0] / short
        apart_y = abs(a.y - b.y) * size[1] / short
        deepest = max(deepest, reach - max(apart_x, apart_y))
    return deepest


def random_actor(
    rng: np.random.Generator,
    picture: Picture,
    side: float,
    size: tuple[int, int],
    motion: str | None = None,
) -> Actor:
    """An actor of size `side`, in shares of the short side, that stays inside the frame."""
    if motion is None:
        motion = random_motion(rng, picture, AXIS_MOTIONS)
    wide, tall = side * min(size) / size[0], side * min(size) / size[1]
    low_x, high_x, low_y, high_y = wide / 2, 1 - wide / 2, tall / 2, 1 - tall / 2
    amount = height = 0.0
    if motion in DIRECTIONS:
        # Up to a third of the actor may leave the frame at either end of its path.
        right, down = DIRECTIONS[motion]
        longest = 1 - max(wide * abs(right), tall * abs(down))
        amount = float(rng.uniform(0.45, max(0.5, longest)))
        dx, dy = right * amount, down * amount
        low_x, high_x = _start_range(low_x, high_x, dx, wide / 3)
        low_y, high_y = _start_range(low_y, high_y, dy, tall / 3)
    elif motion in ("grows", "shrinks"):
        amount = float(rng.uniform(2.0, 3.0))
    elif motion == "spins":
        amount = float(rng.uniform(1.0, 1.7) * rng.choice((-1, 1)))
    elif motion == "bounces":
        amount, height = float(rng.uniform(1.6, 3.2)), float(rng.uniform(0.18, 0.4))
        low_y += height
    elif motion == "shakes":
        amount, height = float(rng.uniform(1.6, 2.8)), float(rng.uniform(0.1, 0.18))
        low_x, high_x = low_x + height, high_x - height
    elif motion in ("appears", "disappears"):
        amount = float(rng.uniform(0.4, 0.6))
    return Actor(
        picture,
        motion,
        x=_between(rng, low_x, high_x),
        y=_between(rng, low_y, high_y),
        size=side,
        amount=amount,
        height=height,
        angle=float(rng.uniform(-15, 15)) if rng.random() < 0.3 else 0.0,
        smooth=bool(rng.random() < 0.3),
        mirrored=bool(rng.random() < 0.5) and not picture.lettered,
    )


def random_motion(
    rng: np.random.Generator, picture: Picture, motions: Sequence[str] = MOTIONS
) -> str:
    """A random one of `motions`; a picture that looks the same when rotated never spins."""
    motion = motions[int(rng.integers(len(motions)))]
    while motion == "spins" and picture.turn_visibility < MIN_TURN_VISIBILITY:
        motion = motions[int(rng.integers(len(motions)))]
    return motion


def _start_range(low: float, high: float, distance: float, beyond: float) -> tuple[float, float]:
    """The range of starts for which both ends of a path of length `distance` lie in [low, high], or
    up to `beyond` outside where the path is too long for that."""
    if distance == 0:
        return low, high
    low, high = max(low, low - distance), min(high, high - distance)
    return (low, high) if low < high else (low - beyond, high + beyond)


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """A random number in [low, high], or their mean where low >= high."""
    return float(rng.uniform(low, high)) if low < high else (low + high) / 2
