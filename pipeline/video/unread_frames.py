"""Frames of a video that are read when somebody looks at one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np

from reellama.pipeline.video.source import VideoError


class UnreadFrames(Sequence[np.ndarray]):
    """`count` frames of a file that was looked at before, uint8 RGB `[height, width, 3]`.

    size: their width and height in pixels. read: reads them. Raises VideoError, once a frame is
    wanted, where the file is not what it was.
    """

    def __init__(
        self,
        path: Path,
        count: int,
        size: Sequence[int] | np.ndarray,
        read: Callable[[], Sequence[np.ndarray]],
    ) -> None:
        self.path, self._count, self._read = path, count, read
        self.width, self.height = (int(side) for side in size)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | Sequence[np.ndarray]:
        return self._frames[index]

    @cached_property
    def _frames(self) -> Sequence[np.ndarray]:
        frames = self._read()
        if len(frames) != self._count:
            raise VideoError(f"{self.path}: the file has changed since it was looked at")
        return frames
