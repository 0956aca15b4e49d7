"""What sampling needs to know of a video, an animated picture or a folder of pictures."""

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
    """A video, picture or folder cannot be read as asked; the message is one line for people."""


@dataclass(frozen=True)
class FileFacts:
    """What a video file says of itself: pixels before turning, frames a second on average."""

    width: int
    height: int
    frame_rate: float
    has_sound: bool


@dataclass(frozen=True)
class Frame:
    """A frame that is turned into RGB only when somebody wants its pixels.

    time: seconds from the start of the video at which the frame appears.
    rgb:  rgb(max_side) -> uint8 [height, width, 3], upright, with square pixels; the longer side is
          at most `max_side` pixels, or as it comes with None.
    """

    time: float
    rgb: Callable[[int | None], np.ndarray]


class FrameSource(Protocol):
    """An open video, picture or folder of pictures: frames by time, for as many reads as needed.

    All times are seconds from the start of the video. Use it in a `with` block, or close it.
    """

    path: Path
    duration: float  # 0.0 for a still picture
    notes: list[str]  # what a person should know of the file, e.g. that it is cut off
    facts: FileFacts | None  # None for pictures

    def frames_at(self, times: Sequence[float], *, coarse: bool = False) -> Iterator[Frame]:
        """The frames on screen at `times` (ascending); a frame never comes twice.

        coarse: a frame somewhat before the wanted time will do, where it is cheaper.
        """
        ...

    def frames_between(self, start: float, end: float) -> Iterator[Frame]:
        """Every frame on screen in [start, end): also the one that appeared before `start`."""
        ...

    def frame_times(self, start: float, end: float) -> Iterator[float]:
        """When the frames of `frames_between` appear, ascending, without decoding anything."""
        ...

    def keyframe_times(self, start: float, end: float) -> Iterator[float]:
        """Times of the frames in [start, end) that can be decoded without any other."""
        ...

    def subtitles(self) -> tuple[Subtitle, ...]:
        """Lines of text that belong to the video, in the file or beside it, by their start."""
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
