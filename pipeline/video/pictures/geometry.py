"""How a decoded picture has to be turned and stretched before it is shown."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Pixels more than this many times as wide as high (or the reverse) are a damaged header.
MAX_PIXEL_ASPECT = 8.0


class Orientation(NamedTuple):
    """Swap rows and columns first, then mirror."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False


def orientation(matrix: np.ndarray | None) -> Orientation:
    """What a display matrix (nine fixed-point numbers, row by row, as in MP4's tkhd) asks for.

    The matrix maps a point (x, y) to (a x + c y, b x + d y); angles between quarter turns go to the
    nearest one.
    """
    if matrix is None:
        return Orientation()
    a, b, _, c, d = (int(value) for value in matrix[:5])
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, flip_x=c < 0, flip_y=b < 0)
    return Orientation(False, flip_x=a < 0, flip_y=d < 0)


def orient(rgb: np.ndarray, how: Orientation) -> np.ndarray:
    """Turn and mirror `rgb` [height, width, 3]; the result is contiguous."""
    if how.transpose:
        rgb = rgb.swapaxes(0, 1)
    if how.flip_x:
        rgb = rgb[:, ::-1]
    if how.flip_y:
        rgb = rgb[::-1]
    return np.ascontiguousarray(rgb)


def display_size(
    width: int, height: int, pixel_aspect: float = 1.0, max_side: int | None = None
) -> tuple[int, int]:
    """Width and height with square pixels, the longer at most `max_side`; never enlarged to it.

    pixel_aspect: width of a stored pixel over its height. The picture is stretched along one side
    and never shrunk along the other, so no detail is lost.
    """
    w, h = float(width), float(height)
    if 1.0 / MAX_PIXEL_ASPECT <= pixel_aspect <= MAX_PIXEL_ASPECT:
        w, h = (w * pixel_aspect, h) if pixel_aspect >= 1.0 else (w, h / pixel_aspect)
    scale = min(1.0, max_side / max(w, h)) if max_side else 1.0
    return max(1, round(w * scale)), max(1, round(h * scale))
