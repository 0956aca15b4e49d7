"""The output of a bundle for a video, which goes into prompts and caches, and its cache key."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from reellama.models.networks.open_network import RUNTIME
from reellama.models.token_pooling.options import DEFAULT_POOLING, PoolingOptions

# A part of every cache key. Count it up when frames are read differently: older entries then miss.
READING = "reading 5"


class EncodedFrames(NamedTuple):
    """The frames of a video, encoded by a bundle.

    Attributes:
        array: float32, soft tokens `[tokens, n_embd]` of a `Bundle`, or tokens of each picture
            `[pictures, rows, columns, n_embd]` of a `VisionBundle`, float16 where it holds them.
        times: float64, seconds of each frame, or of the first frame of each picture.
        frame_size: width and height of the frames in pixels, int64 `[2]`.
        n_read: number of frames from which these were chosen, int64; 0 if these are all.
    """

    array: np.ndarray
    times: np.ndarray
    frame_size: np.ndarray
    n_read: np.ndarray = np.array(0, np.int64)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frames in pixels."""
        width, height = self.frame_size
        return int(width), int(height)

    @property
    def nbytes(self) -> int:
        """Size of the arrays in bytes."""
        return sum(array.nbytes for array in self)


class ChosenFrames(NamedTuple):
    """Frames that go through a bundle's tower, as it takes them.

    chosen: which these are of the frames that were read, int64. tiles: whether the tower shows
    each in tiles too.
    """

    frames: Sequence[np.ndarray]
    chosen: np.ndarray
    tiles: bool = False


class EncodesAllFrames:
    """The part of a bundle that always makes the same number of soft tokens, of all frames."""

    def features(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """uint8 RGB frames `[H, W, 3]` -> features."""
        raise NotImplementedError

    def choose_frames(
        self,
        frames: Sequence[np.ndarray],
        times: np.ndarray,
        options: PoolingOptions = DEFAULT_POOLING,
        context_left: int | None = None,
    ) -> ChosenFrames:
        """All frames as they were read."""
        return ChosenFrames(frames, np.arange(len(frames)))

    def chosen_features(self, chosen: ChosenFrames) -> np.ndarray:
        """The features of the result of `choose_frames`."""
        return self.features(chosen.frames)

    def encoding_version(
        self, options: PoolingOptions, n_frames: int, context_left: int | None
    ) -> str:
        """An empty text: the soft tokens depend on no option and on no context."""
        return ""


def encoded_frames(
    array: np.ndarray, chosen: ChosenFrames, frames: Sequence[np.ndarray], times: np.ndarray
) -> EncodedFrames:
    """What a bundle made of those that it chose of `frames` at `times` seconds."""
    n_read = np.array(len(frames), np.int64)
    return EncodedFrames(array, times[chosen.chosen], frame_size(frames), n_read)


def frame_size(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Width and height of the first of uint8 RGB frames `[H, W, 3]`, int64 `[2]`."""
    return np.array(frames[0].shape[1::-1], np.int64)


def encoding_key(contents: Iterable[bytes], reading: object, version: str) -> str:
    """Cache key of a video's soft tokens: a SHA-256, in hexadecimal, of all that they depend on.

    Args:
        contents: digests of the video's files.
        reading: the options that the frames are read with; its text goes into the key.
        version: of the bundle.
    """
    runtime = os.environ.get(RUNTIME, "")  # torch and onnxruntime differ in the last digits
    digest = hashlib.sha256(f"{READING} {reading} {version} {runtime}".encode())
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


def content_key(version: str, frames: Sequence[np.ndarray], tiles: bool) -> str:
    """Cache key of frames: SHA-256, in hexadecimal, of the bundle's version, the pixels and
    whether they are encoded with tiles."""
    shapes = [frame.shape for frame in frames]
    key = hashlib.sha256(json.dumps([version, shapes, tiles, "float16"]).encode())
    for frame in frames:
        key.update(frame.tobytes())
    return key.hexdigest()
