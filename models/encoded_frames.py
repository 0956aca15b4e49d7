"""A video after the visual side: what a cache keeps of it, and what prompts are made of."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from reellama.models.networks.open_network import RUNTIME

# What goes into every key: a change in how frames are read makes older entries unknown.
READING = "reading 5"


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
        """Bytes of memory that the arrays take."""
        return sum(part.nbytes for part in self)


def frame_size(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Width and height of the first of uint8 RGB frames `[H, W, 3]`, int64 `[2]`."""
    return np.array(frames[0].shape[1::-1], np.int64)


def encoding_key(contents: Iterable[bytes], reading: object, version: str) -> str:
    """What soft tokens of a video depend on, as a name for a file: the digests of its contents, how
    it is read, and the version of the bundle."""
    runtime = os.environ.get(RUNTIME, "")  # torch's numbers differ in the last digits
    digest = hashlib.sha256(f"{READING} {reading} {version} {runtime}".encode())
    for content in contents:
        digest.update(content)
    return digest.hexdigest()
