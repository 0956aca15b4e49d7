"""Composite motions: two in sequence, one in shuffled order, and paths along waypoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from reellama.models.synthetic.assets.pictures import Picture
from reellama.models.synthetic.scene import DIRECTIONS, MOTIONS, Actor, Drawable, Pose
from reellama.models.synthetic.scene_generation import MIN_TURN_VISIBILITY, random_actor

# Motions that can be either of two in sequence: an invisible actor cannot show another motion.
ORDERABLE_MOTIONS = tuple(m for m in MOTIONS if m not in ("appears", "disappears"))
# Captions of waypoint motions.
CHANGES_PLACES, MOVES_ABOUT = "changes places", "moves about"
MIN_SIZE = 0.1  # of the short side; smaller pictures are hard to recognize


@dataclass(frozen=True)
class SequentialMotion:
    """One motion until time `switch_time`, then another one."""

    first: Actor
    second: Actor
    switch_time: float = 0.5
    motion: str = "does two things"

    @property
    def picture(self) -> Picture:
        """The picture; both motions have the same one."""
        return self.first.picture

    @property
    def mirrored(self) -> bool:
        """Whether the picture is mirrored, which is the same in both motions."""
        return self.first.mirrored

    def pose(self, u: float) -> Pose:
        """Where it is at time u."""
        if u < self.switch_time:
            return self.first.pose(u / self.switch_time)
        return self.second.pose((u - self.switch_time) / (1 - self.switch_time))

    @classmethod
    def random(
        cls, rng: np.random.Generator, picture: Picture, side: float, size: tuple[int, int]
    ) -> SequentialMotion:
        """Two different motions; the second begins where the first ends. `side`: largest size.

        Both have the same size range and are placed together, so that unordered frames do not
        tell which motion came first.
        """
        while True:
            motions = [str(m) for m in rng.choice(ORDERABLE_MOTIONS, 2, replace=False)]
            turns = picture.turn_visibility >= MIN_TURN_VISIBILITY
            if "spins" in motions and not turns:
                continue
            first = _shortened(random_actor(rng, picture, side, size, motions[0]))
            second = _shortened(random_actor(rng, picture, side, size, motions[1]))
            end, begin = first.pose(1.0), second.pose(0.0)
            second = replace(
                second,
                x=second.x + end.x - begin.x,
                y=second.y + end.y - begin.y,
                mirrored=first.mirrored,
                angle=first.angle,
                size=second.size * end.size / begin.size,
            )
            motion = cls(first, second, float(rng.uniform(0.42, 0.58)))._scaled_to(side)
            placed = motion._placed(rng, size)
            if placed is not None:
                return placed

    def _scaled_to(self, side: float) -> SequentialMotion:
        """Scale both motions so that the largest size is `side`."""
        factor = side / max(pose.size for pose in self._poses())
        first, second = (replace(a, size=a.size * factor) for a in (self.first, self.second))
        return replace(self, first=first, second=second)

    def _placed(self, rng: np.random.Generator, size: tuple[int, int]) -> SequentialMotion | None:
        """Move both motions to a random place inside the frame; None where they do not fit."""
        poses, short = self._poses(), min(size)
        x, y, half = np.array([(p.x, p.y, p.size / 2) for p in poses]).T
        if 2 * half.min() < MIN_SIZE:
            return None
        shifts = []
        for centre, reach in ((x, half * short / size[0]), (y, half * short / size[1])):
            low, high = -(centre - reach).min(), 1 - (centre + reach).max()
            if low > high:
                return None
            shifts.append(float(rng.uniform(low, high)))
        first, second = (
            replace(a, x=a.x + shifts[0], y=a.y + shifts[1]) for a in (self.first, self.second)
        )
        return replace(self, first=first, second=second)

    def _poses(self) -> list[Pose]:
        """33 evenly spaced poses of the whole motion, both ends included."""
        return [self.pose(step / 32) for step in range(33)]


@dataclass(frozen=True)
class ShuffledMotion:
    """Moments of a motion in random order, each shown until the next.

    The clip looks like a video with shuffled frames. No direction or order can be recognized, so
    the only right answer is that the object moves about.
    """

    ordered: Drawable
    frame_times: tuple[float, ...]  # times u of `ordered`, in the order in which they are shown
    motion: str = MOVES_ABOUT

    @property
    def picture(self) -> Picture:
        """The picture of the motion in order."""
        return self.ordered.picture

    @property
    def mirrored(self) -> bool:
        """Whether the picture is mirrored."""
        return self.ordered.mirrored

    def pose(self, u: float) -> Pose:
        """Where it is at time u."""
        moment = min(int(u * len(self.frame_times)), len(self.frame_times) - 1)
        return self.ordered.pose(self.frame_times[moment])

    @classmethod
    def random(cls, rng: np.random.Generator, ordered: Drawable) -> ShuffledMotion:
        """Shuffle a motion, cut into 12 to 32 moments."""
        moments = np.linspace(0.0, 1.0, int(rng.integers(12, 33)))
        return cls(ordered, tuple(float(u) for u in rng.permutation(moments)))


def _shortened(actor: Actor) -> Actor:
    """The actor with a shorter motion, as the first or second of two.

    Hops and swings become whole numbers, so that they end where they began: otherwise half a hop
    would tell which motion came first.
    """
    if actor.motion in DIRECTIONS or actor.motion == "spins":
        return replace(actor, amount=actor.amount * 0.7)
    if actor.motion in ("bounces", "shakes"):
        return replace(actor, amount=float(round(actor.amount)))
    return actor


@dataclass(frozen=True)
class WaypointMotion:
    """Straight lines between waypoints at given times, slower at both ends of each line."""

    picture: Picture = field(repr=False)
    points: tuple[tuple[float, float, float], ...]  # (u, x, y)
    size: float
    motion: str = CHANGES_PLACES
    mirrored: bool = False

    def pose(self, u: float) -> Pose:
        """Where it is at time u."""
        after = next((n for n, point in enumerate(self.points) if point[0] > u), len(self.points))
        if after in (0, len(self.points)):
            _, x, y = self.points[min(after, len(self.points) - 1)]
            return Pose(x, y, self.size)
        (u0, x0, y0), (u1, x1, y1) = self.points[after - 1 : after + 1]
        share = (u - u0) / (u1 - u0)
        share = share * share * (3 - 2 * share)  # smoothstep
        return Pose(x0 + share * (x1 - x0), y0 + share * (y1 - y0), self.size)

    @classmethod
    def swapping_places(
        cls, rng: np.random.Generator, pictures: Sequence[Picture], side: float, swaps: int
    ) -> tuple[list[int], list[WaypointMotion]]:
        """Three pictures in a row. `swaps` times, a random two of them swap places; one of the two
        passes above, the other below.

        Returns the final column of each picture (0 is left), and the motion of each.
        """
        columns, row = (0.2, 0.5, 0.8), float(rng.uniform(0.42, 0.58))
        places = [0, 1, 2]
        points = [[(0.0, columns[n], row)] for n in range(3)]
        for swap in range(swaps):
            begin, end = 0.1 + 0.8 * swap / swaps, 0.1 + 0.8 * (swap + 0.9) / swaps
            first, second = (int(n) for n in rng.choice(3, 2, replace=False))
            for number, target, bend in ((first, second, -0.24), (second, first, 0.24)):
                x0, x1 = columns[places[number]], columns[places[target]]
                points[number].append((begin, x0, row))
                points[number].append(((begin + end) / 2, (x0 + x1) / 2, row + bend))
                points[number].append((end, x1, row))
            places[first], places[second] = places[second], places[first]
        routes = [
            cls(picture, (*path, (1.0, path[-1][1], row)), side)
            for picture, path in zip(pictures, points, strict=True)
        ]
        return places, routes

    @classmethod
    def aimless(cls, rng: np.random.Generator, picture: Picture, side: float) -> WaypointMotion:
        """A path without one direction, like a straight motion with shuffled frames.

        Half of the paths stay on one line.
        """
        stops = int(rng.integers(8, 20))
        low, high = side / 2 + 0.02, 0.98 - side / 2
        x, y = rng.uniform(low, high, (2, stops))
        if rng.random() < 0.5:
            share, ends = rng.random((stops, 1)), rng.uniform(low, high, (2, 2))
            x, y = (ends[0] + share * (ends[1] - ends[0])).T
        times = np.linspace(0.0, 1.0, stops)
        points = tuple((float(u), float(a), float(b)) for u, a, b in zip(times, x, y, strict=True))
        return cls(picture, points, side, MOVES_ABOUT)
