"""Camera moves of a rendered clip: pans, zooms, and a handheld camera."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

PANS = {
    "the camera pans right": (1, 0),
    "the camera pans left": (-1, 0),
    "the camera pans up": (0, -1),
    "the camera pans down": (0, 1),
}
CAMERA_MOVES = (*PANS, "the camera zooms in", "the camera zooms out")
HANDHELD = "the camera moves about"  # a handheld camera
WORLD_SCALE = 1.5  # a scene with a camera is this many times as wide and as high as the picture


@dataclass(frozen=True)
class Camera:
    """A camera that makes one move.

    Attributes:
        move: one of `CAMERA_MOVES`, `HANDHELD`, or any other text for a camera that stays still.
        amount: how far the camera moves, as a share of the longest possible path.
        x, y: centre of the view, in shares of the scene.
        phase: where a handheld camera starts on its path, in turns.
    """

    move: str
    amount: float = 1.0
    x: float = 0.5
    y: float = 0.5
    phase: float = 0.0

    @classmethod
    def random(cls, rng: np.random.Generator, move: str) -> Camera:
        """A camera that makes `move`, with a random place and amount."""
        x, y = (float(rng.uniform(0.4, 0.6)) for _ in range(2))
        amount = float(rng.uniform(0.3, 1.0) if move == HANDHELD else rng.uniform(0.6, 1.0))
        phase = float(rng.random()) if move == HANDHELD else 0.0
        return cls(move, amount, x, y, phase)

    def view(self, u: float) -> tuple[float, float, float, float]:
        """The visible part of the scene at time u in [0, 1]: left, top, right, bottom, in shares of
        the scene."""
        side, x, y = 1 / WORLD_SCALE, self.x, self.y
        if self.move in PANS:
            right, down = PANS[self.move]
            distance = (1 - side) * self.amount
            x = 0.5 + right * distance * (u - 0.5) if right else x
            y = 0.5 + down * distance * (u - 0.5) if down else y
        elif self.move in ("the camera zooms in", "the camera zooms out"):
            near = 1 - (1 - side) * self.amount
            out = u if self.move.endswith("out") else 1 - u
            side = near * (1 / near) ** out
        elif self.move == HANDHELD:
            # Two sines of incommensurable lengths: the path does not repeat within a clip.
            reach = (1 - side) / 2 * self.amount
            x = 0.5 + reach * math.sin(2 * math.pi * (1.3 * u + self.phase))
            y = 0.5 + reach * math.sin(2 * math.pi * (0.8 * u + 2.6 * self.phase))
        left = min(max(0.0, x - side / 2), 1 - side)
        top = min(max(0.0, y - side / 2), 1 - side)
        return left, top, left + side, top + side
