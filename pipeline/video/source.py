"""The interface of open videos, animated pictures and folders of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from reellama.gguf_tools.errors import ReellamaError

if TYPE_CHECKING:
    import numpy as np

    from reellama.pipeline.video.subtitles import Subtitle


class VideoError(ReellamaError):
    """A video, picture or folder cannot be read as requested; the message is one line."""


@dataclass(frozen=True)
class FileFacts:
    """Facts from the header of a video file."""

    width: int  # pixels, before the frames are rotated upright
    height: int
    frame_rate: float  # frames a second, on average
    has_sound: bool


@dataclass(frozen=True)
class Frame:
    """A frame that is converted to RGB on demand.

    Attributes:
        time: seconds from the start of the video at which the frame appears.
        rgb: rgb(max_side) returns uint8 `[height, width, 3]`, upright, with square pixels, and with
            at most `max_side` pixels on the longer side; None means the stored size.
    """

    time: float
    rgb: Callable[[int | None], np.ndarray]


class FrameSource(Protocol):
    """An open video, picture or folder of pictures, which can be read any number of times.

    All times are seconds from the start of the video. Close it, or use it in a `with` block.
    """

    path: Path
    duration: float  # 0.0 for a still picture
    notes: list[str]  # remarks for the user, such as that the file is cut off
    facts: FileFacts | None  # None for pictures

    def frames_at(self, times: Sequence[float], *, coarse: bool = False) -> Iterator[Frame]:
        """The frames on screen at `times` (ascending), without repetitions.

        coarse: yield a frame somewhat before a time instead, if that is cheaper to decode.
        """
        ...

    def frames_between(self, start: float, end: float) -> Iterator[Frame]:
        """All frames on screen in [start, end), including one that appeared before `start`."""
        ...

    def frame_times(self, start: float, end: float) -> Iterator[float]:
        """The times of the frames of `frames_between`, ascending, without decoding."""
        ...

    def keyframe_times(self, start: float, end: float) -> Iterator[float]:
        """The times of the keyframes in [start, end)."""
        ...

    def subtitles(self) -> tuple[Subtitle, ...]:
        """The subtitles in the file or beside it, sorted by their start."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
