"""Frames of a video with their times: path -> Clip.

    clip = read_frames("holiday.mp4", frames=8, max_side=224)
    clip.frames[0].shape, clip.times[0]   # (126, 224, 3), 0.56

Sampling goes by time and never by index, so variable frame rates come out right.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.video.frame_sampling import FrameProgress, FrameSelection, SamplingMode, select_frames
from pipeline.video.images import open_image, open_image_folder
from pipeline.video.source import FrameSource, VideoError
from pipeline.video.video_file import VideoFile

__all__ = ["Clip", "FrameSelection", "SamplingMode", "VideoError", "iter_frames", "read_frames"]


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames of a video and when they appear.

    frames:   T times uint8 RGB [height, width, 3], upright, with square pixels
    times:    float64 [T], seconds from the start of the video, ascending
    duration: seconds of the whole video; 0.0 for a still picture
    path:     what was read
    notes:    what a person should know, e.g. "asked for 64 frames, the file has 12"
    """

    frames: list[np.ndarray]
    times: np.ndarray
    duration: float
    path: Path
    notes: tuple[str, ...] = ()


def read_frames(
    path: str | Path,
    *,
    frames: int = 8,
    sampling: SamplingMode = "uniform",
    fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
    max_side: int | None = None,
    progress: FrameProgress | None = None,
) -> Clip:
    """At most `frames` frames of a video, an animated or still picture, or a folder of pictures.

    sampling: "uniform"    the frame at the centre of each of `frames` equal intervals of time;
              "fps"        one every 1/fps seconds, or fewer where those are more than `frames`;
              "keyframes"  frames that the encoder stored whole, evenly thinned to `frames`;
              "scenes"     at least one of each scene, the rest from the longest scenes.
    fps:      frames a second for "fps", which it implies.
    start, end: seconds; only what is on screen in between counts. A frame that appeared before
              `start` and is still on screen then has the time `start`.
    max_side: longest side in pixels. Larger frames are scaled down as they are decoded.
    progress: called as progress(done, total) after each step.

    The pictures of a folder come in natural order, one second apart.
    Raises VideoError, with one line for people, when there is nothing to return.
    """
    plan = FrameSelection(frames, sampling, fps, start, end, max_side)
    with closing(open_source(path)) as source:
        taken = list(select_frames(source, plan, progress))
        return Clip(
            frames=[rgb for _, rgb in taken],
            times=np.array([time for time, _ in taken], dtype=np.float64),
            duration=source.duration,
            path=source.path,
            notes=tuple(source.notes),
        )


def iter_frames(
    path: str | Path,
    plan: FrameSelection,
    *,
    progress: FrameProgress | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Generator[tuple[float, np.ndarray], None, None]:
    """(seconds, uint8 RGB [height, width, 3]) one by one, as `read_frames` would collect them.

    Closing the iterator, or an exception, closes the file. Notes come to `on_note` at the end.
    """
    with closing(open_source(path)) as source:
        yield from select_frames(source, plan, progress)
        for note in source.notes:
            if on_note is not None:
                on_note(note)


def open_source(path: str | Path) -> FrameSource:
    """Open a video, a picture or a folder of pictures; VideoError says why it cannot be."""
    path = Path(path)
    try:
        if path.is_dir():
            return open_image_folder(path)
        with open(path, "rb") as file:
            empty = not file.read(1)
    except FileNotFoundError:
        raise VideoError(f"{path}: no such file; check the path") from None
    except PermissionError:
        raise VideoError(f"{path}: no permission to read it; check who owns the file") from None
    except (OSError, ValueError) as error:
        raise VideoError(f"{path}: cannot be opened ({error})") from None
    if empty:
        raise VideoError(f"{path}: the file is empty (0 bytes); copy or record it again")
    return open_image(path) or VideoFile(path)
