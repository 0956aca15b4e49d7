"""Resize frames to a tower's square input: the same pixels for onnxruntime and torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reellama.gguf_tools.errors import ReellamaError

# Frames a batch. The activations of a convolutional tower then fit the processor's cache: on two
# cores, batches of 8 are twice as fast as batches of 128.
BATCH_FRAMES = 8
NO_FRAMES = "no frames to encode"


class TowerError(ReellamaError):
    """A tower that cannot be found or loaded, or frames of a wrong type or shape."""


def square_pixels(frames: Sequence[np.ndarray], size: int) -> np.ndarray:
    """uint8 RGB frames `[H, W, 3]` of any sizes -> uint8 `[frames, size, size, 3]`.

    Bilinear with Pillow's antialiasing; torch's differs by at most 1. Raises TowerError for no
    frames, and for a wrong type or shape.
    """
    if not len(frames):
        raise TowerError(NO_FRAMES)
    return np.stack([_resize(frame, size) for frame in frames])


def _resize(frame: np.ndarray, size: int) -> np.ndarray:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise TowerError(
            f"a frame must be uint8 [height, width, 3], not {frame.dtype} {list(frame.shape)}"
        )
    if frame.shape[:2] == (size, size):
        return frame
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(frame))
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))
