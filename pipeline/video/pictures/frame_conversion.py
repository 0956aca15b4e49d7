"""Decoded frames as upright RGB with square pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from reellama.pipeline.video.pictures.geometry import Orientation, display_size, orient, orientation
from reellama.pipeline.video.pictures.tone_mapping import HLG, PQ, tone_map
from reellama.pipeline.video.source import VideoError

_FULL_RANGE = 2  # libavutil's AVCOL_RANGE_JPEG


class FrameConverter:
    """Turns the frames of one video into RGB.

    It has the one scaler of that video: each of a frame's own would have threads of its own. And it
    looks at a frame's side data only where the turn changes, since PyAV keeps a frame that was
    looked at, with all of its pixels, until Python next collects garbage.
    """

    def __init__(self) -> None:
        self._scaler = VideoReformatter()
        self._turned: tuple[float, Orientation] | None = None

    def rgb(self, frame: VideoFrame, pixel_aspect: float, max_side: int | None) -> np.ndarray:
        """uint8 [height, width, 3], scaled and converted in one pass, the longer side at most
        `max_side` pixels.

        Raises VideoError for a frame that cannot be converted.
        """
        width, height = display_size(frame.width, frame.height, pixel_aspect, max_side)
        hdr = frame.color_trc in (PQ, HLG)
        try:
            # Area averaging: shrinking 4K to 224 px by interpolation alone would alias.
            layout = "yuv444p16le" if hdr else "rgb24"
            scaled = self._scaler.reformat(
                frame, width, height, format=layout, interpolation="AREA"
            )
            rgb = scaled.to_ndarray()
            if hdr:
                rgb = tone_map(rgb, frame.color_trc, frame.color_range == _FULL_RANGE)
        except (FFmpegError, ValueError, MemoryError) as error:
            what = f"a frame of {frame.width}x{frame.height} cannot be used ({error})"
            raise VideoError(what) from None
        return orient(rgb, self._orientation(frame))

    def _orientation(self, frame: VideoFrame) -> Orientation:
        if self._turned is None or self._turned[0] != frame.rotation:
            self._turned = frame.rotation, orientation(_display_matrix(frame))
        return self._turned[1]


def _display_matrix(frame: VideoFrame) -> np.ndarray | None:
    try:
        data = cast(Mapping[str, Any], frame.side_data)["DISPLAYMATRIX"]
    except KeyError:
        return None
    except ValueError:  # other side data, of a kind that this PyAV does not know, comes with it
        turn = math.radians(frame.rotation)  # counterclockwise
        cos, sin = round(math.cos(turn)), round(math.sin(turn))
        return np.array([cos, -sin, 0, sin, cos, 0, 0, 0, 1])
    return np.frombuffer(data, dtype=np.int32, count=9)
