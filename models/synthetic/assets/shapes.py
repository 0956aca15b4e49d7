"""Coloured shapes drawn by our own code: a picture set that needs no download."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (214, 40, 40),
    "yellow": (250, 204, 30),
    "green": (46, 160, 67),
    "blue": (38, 100, 214),
    "purple": (138, 60, 184),
    "white": (245, 245, 245),
}

Point = tuple[float, float]
Pen = Callable[[ImageDraw.ImageDraw, float, tuple[int, int, int, int]], None]

_CLEAR = (0, 0, 0, 0)
_OVERSAMPLE = 4


def _scaled(points: Sequence[Point], size: float) -> list[Point]:
    return [(x * size, y * size) for x, y in points]


def _polygon(*points: Point) -> Pen:
    def draw(pen: ImageDraw.ImageDraw, size: float, fill: tuple[int, int, int, int]) -> None:
        pen.polygon(_scaled(points, size), fill=fill)

    return draw


def _ellipse(x0: float, y0: float, x1: float, y1: float, *, erase: bool = False) -> Pen:
    def draw(pen: ImageDraw.ImageDraw, size: float, fill: tuple[int, int, int, int]) -> None:
        pen.ellipse(_scaled([(x0, y0), (x1, y1)], size), fill=_CLEAR if erase else fill)

    return draw


def _radial(corners: int, inner: float, *, start: float = -math.pi / 2) -> Pen:
    """A regular polygon (inner = 1) or a star whose inner corners lie at `inner` of the radius."""
    steps = corners * (1 if inner == 1 else 2)
    points = []
    for step in range(steps):
        radius = 0.5 * (inner if inner != 1 and step % 2 else 1.0)
        angle = start + 2 * math.pi * step / steps
        points.append((0.5 + radius * math.cos(angle), 0.5 + radius * math.sin(angle)))
    return _polygon(*points)


def _heart() -> Pen:
    points = []
    for step in range(120):
        t = 2 * math.pi * step / 120
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((0.5 + x / 34, 0.47 - y / 34))
    return _polygon(*points)


def _petals(count: int) -> list[Pen]:
    pens = []
    for petal in range(count):
        angle = 2 * math.pi * petal / count
        x, y = 0.5 + 0.3 * math.cos(angle), 0.5 + 0.3 * math.sin(angle)
        pens.append(_ellipse(x - 0.19, y - 0.19, x + 0.19, y + 0.19))
    return [*pens, _ellipse(0.37, 0.37, 0.63, 0.63, erase=True)]


# Each form is drawn by its pens in order, in the unit square.
FORMS: dict[str, list[Pen]] = {
    "ball": [_ellipse(0.04, 0.04, 0.96, 0.96)],
    "square": [_polygon((0.08, 0.08), (0.92, 0.08), (0.92, 0.92), (0.08, 0.92))],
    "triangle": [_polygon((0.5, 0.06), (0.98, 0.9), (0.02, 0.9))],
    "diamond": [_polygon((0.5, 0.0), (0.84, 0.5), (0.5, 1.0), (0.16, 0.5))],
    "star": [_radial(5, 0.42)],
    "heart": [_heart()],
    "ring": [_ellipse(0.04, 0.04, 0.96, 0.96), _ellipse(0.27, 0.27, 0.73, 0.73, erase=True)],
    "cross": [
        _polygon((0.35, 0.03), (0.65, 0.03), (0.65, 0.97), (0.35, 0.97)),
        _polygon((0.03, 0.35), (0.97, 0.35), (0.97, 0.65), (0.03, 0.65)),
    ],
    "moon": [_ellipse(0.04, 0.04, 0.96, 0.96), _ellipse(0.36, -0.04, 1.16, 0.76, erase=True)],
    "hut": [
        _polygon((0.5, 0.04), (0.98, 0.46), (0.02, 0.46)),
        _polygon((0.14, 0.46), (0.4, 0.46), (0.4, 0.96), (0.14, 0.96)),
        _polygon((0.4, 0.46), (0.62, 0.46), (0.62, 0.66), (0.4, 0.66)),
        _polygon((0.62, 0.46), (0.86, 0.46), (0.86, 0.96), (0.62, 0.96)),
    ],
    "boat": [
        _polygon((0.02, 0.64), (0.98, 0.64), (0.8, 0.94), (0.2, 0.94)),
        _polygon((0.47, 0.04), (0.9, 0.58), (0.47, 0.58)),
        _polygon((0.41, 0.2), (0.41, 0.58), (0.12, 0.58)),
    ],
    "flower": _petals(6),
}


def draw_shape(form: str, colour: str, size: int) -> np.ndarray:
    """A form in a colour, antialiased: uint8 RGBA [size, size, 4]."""
    large = size * _OVERSAMPLE
    canvas = Image.new("RGBA", (large, large), _CLEAR)
    pen = ImageDraw.Draw(canvas)
    for draw in FORMS[form]:
        draw(pen, large, (*COLOURS[colour], 255))
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX))
