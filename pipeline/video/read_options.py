"""Options for reading a video: which frames, and how large.

The command line (`reellama.pipeline.cli.options.FrameOptions`), the keywords of `read_frames` and
of `VideoChat`, saved conversations and the server's decoder all use these names. This module
imports neither PyAV nor numpy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from reellama.pipeline.option_fields import option
from reellama.pipeline.video.source import VideoError

if TYPE_CHECKING:
    from reellama.models.open_bundle import VideoBundle

SamplingMode = Literal["uniform", "fps", "keyframes", "scenes"]
SubtitleMode = Literal["auto", "off"]
SUBTITLE_MODES: tuple[SubtitleMode, ...] = get_args(SubtitleMode)
SAMPLING_MODES: tuple[SamplingMode, ...] = get_args(SamplingMode)

# Pixels on the longest side of a frame: more than any tower uses, and few enough for 64 frames of a
# 4K video to fit into memory.
MAX_SIDE = 768


@dataclass(frozen=True)
class VideoReadOptions:
    """Which frames of a video to read. Raises VideoError for options that contradict each other.

    Attributes:
        frames: the most frames to read; None means `default_frames`.
        sampling: the choice of frames:
            "uniform": the frame at the centre of each of `frames` equal intervals of time;
            "fps": one every 1/fps seconds, or `frames` evenly spread if those are more;
            "keyframes": the keyframes, evenly thinned to `frames`;
            "scenes": at least one in each scene, more in the longest scenes.
        start, end: seconds of the part to read. A frame that appeared before `start` and is still
            on screen then gets the time `start`.
        subtitles: whether a conversation uses the subtitles in the file or beside it.
        max_side: pixels on the longest side. Larger frames are scaled down as they are decoded.
        still_side: like `max_side`, for a still picture, or if a single frame is read.
        default_frames: frames to read if `frames` is None.
    """

    frames: int | None = option(None, "At most N frames (default: the bundle's).", low=1)
    sampling: SamplingMode = option("uniform", "uniform, fps, keyframes or scenes (one each).")
    fps: float | None = option(None, "So many frames a second, as --sampling fps.")  # above 0
    start: float | None = option(None, "Begin here: seconds, 1:30 or 1:02:03.")  # 0 or more
    end: float | None = option(None, "End here.")  # seconds, after start
    subtitles: SubtitleMode = option("auto", "auto: those in or beside the file; off: none.")
    max_side: int | None = option(None, "Pixels on the longest side; None: as stored.", low=1)
    still_side: int | None = None
    default_frames: int = 8

    def __post_init__(self) -> None:
        if self.sampling not in SAMPLING_MODES:
            modes = ", ".join(SAMPLING_MODES)
            raise VideoError(f"no sampling named {self.sampling!r}; choose one of {modes}")
        if self.subtitles not in SUBTITLE_MODES:
            raise VideoError(f"subtitles are auto or off, not {self.subtitles!r}")
        if self.frames is not None and self.frames < 1:
            raise VideoError(f"cannot take {self.frames} frames; ask for 1 or more")
        if self.max_side is not None and self.max_side < 1:
            raise VideoError(f"a longest side of {self.max_side} pixels is none; give 1 or more")
        if self.mode == "fps" and not _positive(self.fps):
            hint = "--fps 2, say" if self.fps is None else f"not {self.fps}"
            raise VideoError(f"sampling by fps needs frames a second above 0: {hint}")
        if self.mode != "fps" and self.fps is not None:
            raise VideoError(f"fps means nothing to {self.sampling!r} sampling; leave one out")
        if self.start is not None and not (self.start >= 0 and math.isfinite(self.start)):
            raise VideoError(f"start must be 0 seconds or more, not {self.start}")
        if self.end is not None and not self.end > (self.start or 0.0):
            raise VideoError(f"end ({self.end} s) must come after start ({self.start or 0.0} s)")

    @property
    def mode(self) -> SamplingMode:
        """The sampling mode; `fps` implies "fps"."""
        return "fps" if self.sampling == "uniform" and self.fps is not None else self.sampling

    @property
    def n_frames(self) -> int:
        """The most frames to read."""
        return self.default_frames if self.frames is None else self.frames

    def with_defaults(
        self,
        *,
        frames: int,
        max_side: int,
        max_frames: int | None = None,
        still_side: int | None = None,
    ) -> VideoReadOptions:
        """These options, with defaults for those that are None.

        Args:
            max_frames: the default of `frames` for sampling by fps.
            still_side: the default of `max_side` for a still picture or a single frame.
        """
        most = frames if max_frames is None or self.mode != "fps" else max_frames
        side, single = self.max_side or max_side, self.max_side or still_side
        return replace(self, default_frames=most, max_side=side, still_side=single)

    def for_bundle(self, bundle: VideoBundle) -> VideoReadOptions:
        """These options, with the defaults of a bundle."""
        return self.with_defaults(
            frames=bundle.frames,
            max_side=bundle.max_side,
            max_frames=bundle.max_frames,
            still_side=bundle.still_side,
        )

    def to_json(self) -> dict[str, Any]:
        """The options that a saved conversation stores."""
        names = ("frames", "sampling", "fps", "start", "end", "subtitles")
        return {name: getattr(self, name) for name in names}


def _positive(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and value > 0
