"""A visual tower in onnxruntime: frames in, a grid of features out, as `Tower.grid` in torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from reellama.models.vision.frame_pixels import square_pixels

if TYPE_CHECKING:
    from reellama.models.networks.graph_session import GraphSession

# Frames a step: one to eight take the same time, and the more, the more memory.
BATCH_FRAMES = 2


class FrameEncoder(Protocol):
    """What a `Tower` and an `OnnxTower` have in common.

    size: side of the square that frames are resized to, in pixels.
    """

    @property
    def size(self) -> int: ...

    def grid(self, frames: Sequence[np.ndarray]) -> np.ndarray: ...


class OnnxTower:
    """A tower of a `GraphSession`, whose module is `torch_modules.TowerModule`."""

    def __init__(self, session: GraphSession) -> None:
        self._session = session
        self.size = int(session.input_shape[1])

    def grid(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """Features of every cell: float32 `[frames, cells, channels]`, cells row by row."""
        return over_frames(self._session, frames)


def over_frames(session: GraphSession, frames: Sequence[np.ndarray]) -> np.ndarray:
    """What a network of pixels makes of frames of any size, a row for each."""
    pixels = square_pixels(frames, int(session.input_shape[1]))
    starts = range(0, len(pixels), BATCH_FRAMES)
    return np.concatenate([session(pixels[s : s + BATCH_FRAMES]) for s in starts])
