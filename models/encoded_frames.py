"""A video after the visual side: what a cache keeps of it, and what prompts are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class EncodedFrames(NamedTuple):
    """What a bundle made of the frames of a video.

    array: float32, soft tokens `[tokens, n_embd]` of a `Bundle`, or the tokens of each picture of a
    `VisionBundle`, `[pictures, rows, columns, n_embd]`.
    times: float64, seconds at which the frames appear, or the first of each picture.
    frame_size: width and height of the frames in pixels, int64 `[2]`.
    """

    array: np.ndarray
    times: np.ndarray
    frame_size: np.ndarray

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return sum(part.nbytes for part in self)


def frame_size(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Width and height of the first of uint8 RGB frames `[H, W, 3]`, int64 `[2]`."""
    return np.array(frames[0].shape[1::-1], np.int64)
