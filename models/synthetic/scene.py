"""Scenes of rendered clips: actors, their motions, and their poses at any time.

Time inside a scene is u = seconds / duration, from 0 to 1. Places and sizes are shares of the
frame, so a scene can be drawn at any size and frame rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from reellama.models.synthetic.assets.backgrounds import Background, random_background
from reellama.models.synthetic.assets.pictures import Picture
from reellama.models.synthetic.camera import Camera

# The motions, as captions word them.
MOTIONS = (
    "moves right",
    "moves left",
    "moves up",
    "moves down",
    "moves up and right",
    "moves up and left",
    "moves down and right",
    "moves down and left",
    "grows",
    "shrinks",
    "spins",
    "bounces",
    "shakes",
    "appears",
    "disappears",
    "stays still",
)
# The motions of `random_scene`: no diagonals.
AXIS_MOTIONS = tuple(motion for motion in MOTIONS if " and " not in motion)
DIRECTIONS = {
    "moves right": (1, 0),
    "moves left": (-1, 0),
    "moves up": (0, -1),
    "moves down": (0, 1),
    "moves up and right": (1, -1),
    "moves up and left": (-1, -1),
    "moves down and right": (1, 1),
    "moves down and left": (-1, 1),
}
_OPPOSITES = {
    "moves right": "moves left",
    "moves up": "moves down",
    "moves up and right": "moves down and left",
    "moves up and left": "moves down and right",
    "grows": "shrinks",
    "appears": "disappears",
}
_BACKWARDS = {**_OPPOSITES, **{after: before for before, after in _OPPOSITES.items()}}
# A picture that rotation changes less than this (a ball, a ring) never spins.
MIN_TURN_VISIBILITY = 0.2


@dataclass(frozen=True)
class Pose:
    """Centre in shares of width and height, size in shares of the short side, angle in degrees."""

    x: float
    y: float
    size: float
    angle: float = 0.0
    visible: bool = True


@dataclass(frozen=True)
class Actor:
    """A picture with one motion.

    x, y: the centre at the start, in shares of width and height.
    size: the largest side at its largest, in shares of the frame's short side.
    amount: by motion: the distance (share of width or height), the factor of growing or shrinking,
        full turns (negative is clockwise), the number of hops or swings, or the time u of
        appearing or disappearing.
    height: of a hop, or the reach of a swing to each side (share of height or width).
    smooth: whether it speeds up and slows down.
    """

    picture: Picture = field(repr=False)
    motion: str
    x: float
    y: float
    size: float
    amount: float = 0.0
    height: float = 0.0
    angle: float = 0.0
    smooth: bool = False
    mirrored: bool = False

    def pose(self, u: float) -> Pose:
        """Where the actor is at time u in [0, 1]."""
        x, y, size, angle, visible = self.x, self.y, self.size, self.angle, True
        progress = u * u * (3 - 2 * u) if self.smooth else u
        if self.motion in DIRECTIONS:
            right, down = DIRECTIONS[self.motion]
            x += right * self.amount * progress
            y += down * self.amount * progress
        elif self.motion == "grows":
            size *= self.amount ** (progress - 1)
        elif self.motion == "shrinks":
            size *= self.amount**-progress
        elif self.motion == "spins":
            angle += 360 * self.amount * u
        elif self.motion == "bounces":
            y -= self.height * abs(math.sin(math.pi * self.amount * u))
        elif self.motion == "shakes":
            x += self.height * math.sin(2 * math.pi * self.amount * u)
        elif self.motion == "appears":
            visible = u >= self.amount
        elif self.motion == "disappears":
            visible = u < self.amount
        return Pose(x, y, size, angle, visible)


def reversed_motion(motion: str) -> str:
    """The motion seen backwards in time; the same motion where that looks alike."""
    return _BACKWARDS.get(motion, motion)


class Drawable(Protocol):
    """A picture with a pose at any time u in [0, 1]."""

    @property
    def picture(self) -> Picture: ...

    @property
    def mirrored(self) -> bool: ...

    @property
    def motion(self) -> str: ...

    def pose(self, u: float) -> Pose: ...


@dataclass(frozen=True)
class Scene:
    """Actors, the main one first and on top, over a background; size is (width, height).

    camera: with one, the scene is larger than the picture; without, all of it is visible.
    second_shot: the scene that follows a hard cut at time u = `cut_time`.
    """

    actors: tuple[Drawable, ...]
    background: Background
    size: tuple[int, int] = (224, 224)
    duration: float = 4.0  # seconds
    camera: Camera | None = None
    cut_time: float = 1.0
    second_shot: Scene | None = None

    def described_backwards(self) -> Scene:
        """The scene with reversed motions in words: for captions, not for drawing."""
        actors = [
            replace(a, motion=reversed_motion(a.motion)) if isinstance(a, Actor) else a
            for a in self.actors
        ]
        return replace(self, actors=tuple(actors))


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

    The second actor is smaller and of another kind; it is left out where the main one would hide
    it. `picture` and `motion`, where given, are the main actor's.
    """
    main_picture = picture or pictures[int(rng.integers(len(pictures)))]
    two = rng.random() < p_two
    # The main actor is larger beside a second one, which is smaller still.
    main_side = rng.uniform(0.33 if two else 0.25, 0.5)
    main = random_actor(rng, main_picture, main_side, size, motion)
    actors = [main]
    if two:
        other = pictures[int(rng.integers(len(pictures)))]
        if other.kind != main_picture.kind:
            actors += _second_actor(rng, other, main, size)
    background = random_background(rng, photos)
    return Scene(tuple(actors), background, size, float(rng.uniform(2.0, 10.0)))


def _second_actor(
    rng: np.random.Generator, picture: Picture, main: Actor, size: tuple[int, int]
) -> list[Actor]:
    """One actor that hardly overlaps the main one, or none where 16 tries find no place."""
    for _ in range(16):
        side = main.size * rng.uniform(0.45, 0.6)
        actor = random_actor(rng, picture, side, size, None)
        if overlap(main, actor, size) <= 0.2 * side:
            return [actor]
    return []


def overlap(one: Actor, other: Actor, size: tuple[int, int]) -> float:
    """The deepest overlap of two actors' squares over time, in shares of the short side."""
    short = min(size)
    deepest = 0.0
    for step in range(9):
        a, b = one.pose(step / 8), other.pose(step / 8)
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
    """The range of starts for which start and end of a path over `distance` lie in [low, high].

    Where it is empty, both may lie up to `beyond` outside.
    """
    if distance == 0:
        return low, high
    low, high = max(low, low - distance), min(high, high - distance)
    return (low, high) if low < high else (low - beyond, high + beyond)


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """A random number in [low, high], or their mean where low >= high."""
    return float(rng.uniform(low, high)) if low < high else (low + high) / 2
