"""Scenes of rendered clips: actors, their motions, and their poses at any time.

Time inside a scene is u = seconds / duration, from 0 to 1. Places and sizes are shares of the
frame, so a scene can be drawn at any size and frame rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Protocol

from reellama.models.synthetic.assets.backgrounds import Background
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

    Attributes:
        picture: what is drawn.
        motion: one of `MOTIONS`.
        x, y: the centre at the start, in shares of width and height.
        size: the largest side at its largest, in shares of the frame's short side.
        amount: by motion: the distance (share of width or height), the factor of growing or
            shrinking, full turns (negative is clockwise), the number of hops or swings, or the
            time u of appearing or disappearing.
        height: of a hop, or the reach of a swing to each side (share of height or width).
        angle: rotation at the start, in degrees.
        smooth: whether the motion speeds up and slows down.
        mirrored: whether the picture is mirrored.
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
    """The motion as seen in a video that is played backwards."""
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
    """Actors over a background.

    Attributes:
        actors: the main one first; it is drawn on top.
        size: width and height of the picture in pixels.
        camera: shows a part of the scene, which is then larger than the picture; None to show all
            of it.
        second_shot: the scene after a hard cut at time u = `cut_time`.
    """

    actors: tuple[Drawable, ...]
    background: Background
    size: tuple[int, int] = (224, 224)
    duration: float = 4.0  # seconds
    camera: Camera | None = None
    cut_time: float = 1.0
    second_shot: Scene | None = None

    def described_backwards(self) -> Scene:
        """The scene with the names of its motions reversed: for captions, not for drawing."""
        actors = [
            replace(a, motion=reversed_motion(a.motion)) if isinstance(a, Actor) else a
            for a in self.actors
        ]
        return replace(self, actors=tuple(actors))
