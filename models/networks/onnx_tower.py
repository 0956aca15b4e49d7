"""A visual tower in onnxruntime: the grid of features that `Tower.grid` computes in torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from reellama.models.vision.frame_pixels import square_pixels

if TYPE_CHECKING:
    from reellama.models.networks.graph_session import GraphSession

# A frame takes the same time in batches of one to eight; small batches take less memory.
BATCH_FRAMES = 2


class FrameEncoder(Protocol):
    """The interface that `Tower` and `OnnxTower` share; `size` is the input's side in pixels."""

    @property
    def size(self) -> int: ...

    def grid(self, frames: Sequence[np.ndarray]) -> np.ndarray: ...


class OnnxTower:
    """A visual tower, from the graph of a `torch_modules.TowerModule`."""

    def __init__(self, session: GraphSession) -> None:
        self._session = session
        self.size = int(session.input_shape[1])

    def grid(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """uint8 RGB frames `[H, W, 3]` -> features float32 `[frames, cells, channels]`, cells row
        by row."""
        return over_frames(self._session, frames)


def over_frames(session: GraphSession, frames: Sequence[np.ndarray]) -> np.ndarray:
    """Run a network that takes pixels on uint8 RGB frames `[H, W, 3]`: `[frames, ...]`."""
    pixels = square_pixels(frames, int(session.input_shape[1]))
    starts = range(0, len(pixels), BATCH_FRAMES)
    return np.concatenate([session(pixels[s : s + BATCH_FRAMES]) for s in starts])
