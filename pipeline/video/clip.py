"""Frames of a video with their times: path -> Clip.

    clip = read_frames("holiday.mp4", frames=8, max_side=224)
    clip.frames[0].shape, clip.times[0]   # (126, 224, 3), 0.56

Sampling goes by time and never by index, so variable frame rates come out right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, overload
from urllib.parse import unquote

import numpy as np

from reellama.pipeline.progress_callbacks import Progress
from reellama.pipeline.video.file_signature import VIDEOS_ONLY, container_kind
from reellama.pipeline.video.frame_sampling import select_frames
from reellama.pipeline.video.read_options import VideoReadOptions
from reellama.pipeline.video.source import FileFacts, FrameSource, VideoError
from reellama.pipeline.video.subtitles import Subtitle

# "https:/a.b/c", "data:video/mp4;base64,...", and URLs without a scheme, as browsers show them.
_URL = re.compile(r"(?i)([a-z][a-z0-9+.-]+):(/+)|data:|www\.|[a-z0-9-]+\.(?:com|org|net|tv|be)/")
_MAX_SHOWN = 80  # characters of a URL in an error message

# Functions that read a video take its path, or the open video.
VideoInput = str | Path | FrameSource


class UnreadFrames(Sequence[np.ndarray]):
    """Frames of a file, uint8 RGB `[height, width, 3]`, that are read once one is indexed.

    Args:
        count: the number of frames.
        size: width and height in pixels.
        read: reads the frames.

    Raises VideoError at the first index if the file has changed and has another number of frames.
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


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames of a video with their times.

    Attributes:
        frames: T frames, uint8 RGB `[height, width, 3]`, upright, with square pixels.
        times: float64 `[T]`, seconds from the start of the video, ascending.
        duration: seconds of the whole video; 0.0 for a still picture.
        path: the file or folder that was read.
        notes: remarks for the user, such as "asked for 64 frames, the file has 12".
        facts: size, frame rate and sound by the file's header; None for pictures.
        subtitles: the subtitles of this part of the video, if they were read.
    """

    frames: Sequence[np.ndarray]
    times: np.ndarray
    duration: float
    path: Path
    notes: tuple[str, ...] = ()
    facts: FileFacts | None = None
    subtitles: tuple[Subtitle, ...] = ()

    @property
    def is_wide(self) -> bool:
        """Whether the frames are at least as wide as high."""
        if isinstance(self.frames, UnreadFrames):
            return self.frames.width >= self.frames.height
        height, width = self.frames[0].shape[:2]
        return width >= height


def read_frames(
    video: VideoInput,
    options: VideoReadOptions = VideoReadOptions(),
    *,
    progress: Progress | None = None,
    on_first_frame: Callable[[np.ndarray], None] | None = None,
    **changes: Any,
) -> Clip:
    """Read frames of a video, an animated or still picture, or a folder of pictures.

    The pictures of a folder are read in natural order, one second apart.

    Args:
        video: a path, or a video from `open_video`, which stays open.
        options: which frames to read.
        progress: called with the steps done and their total.
        on_first_frame: called with the first frame before the others are read.
        changes: fields that replace those of `options`: `read_frames(path, frames=8, start=2.0)`.

    Raises VideoError, with a message of one line, if no frame can be read.
    """
    options = replace(options, **changes)
    with opened(video) as source:
        n_file_notes = len(source.notes)  # on the file; select_frames adds notes on this read
        times: list[float] = []
        frames: list[np.ndarray] = []
        for time, rgb in select_frames(source, options, progress):
            if on_first_frame is not None and not frames:
                on_first_frame(rgb)
            times.append(time)
            frames.append(rgb)
        clip = Clip(
            frames=frames,
            times=np.array(times, dtype=np.float64),
            duration=source.duration,
            path=source.path,
            notes=tuple(source.notes),
            facts=source.facts,
        )
        del source.notes[n_file_notes:]
        return clip


@contextmanager
def opened(video: VideoInput) -> Iterator[FrameSource]:
    """A context with an open video. A path is opened and closed; an open video stays open."""
    if not isinstance(video, str | Path):
        yield video
        return
    with open_video(video) as source:
        yield source


def refuse_url(path: Path) -> None:
    """Raise VideoError if `path` is a URL."""
    text = str(path)
    if not (match := _URL.match(text)) or path.exists():
        return
    rest = text[match.end() :]  # Path joins the two slashes of a URL into one
    if (match[1] or "").lower() == "file":
        raise VideoError(f"file:///{rest}: this is a URL; give the path: /{unquote(rest)}")
    url = f"{match[1]}://{rest}" if match[1] else text
    shown = url if len(url) <= _MAX_SHOWN else f"{url[:_MAX_SHOWN]}..."
    raise VideoError(f"{shown}: this is a URL, and nothing is fetched; save the video to a file")


def open_video(path: str | Path) -> FrameSource:
    """Open a video, a picture or a folder of pictures.

        with open_video("lecture.mp4") as video:
            read_frames(video, frames=8), read_frames(video, start=60)

    Raises VideoError, which states why `path` cannot be opened.
    """
    # Pillow and FFmpeg take long to import, and videos whose encoding is cached need neither.
    path = Path(path)
    refuse_url(path)
    try:
        if path.is_dir():
            from reellama.pipeline.video.images import open_image_folder

            return open_image_folder(path)
        if path.is_fifo():
            raise VideoError(
                f"{path}: this is a pipe; write what it brings to a file and read that"
            )
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
    if container_kind(path) not in VIDEOS_ONLY:
        from reellama.pipeline.video.images import open_image

        if (picture := open_image(path)) is not None:
            return picture
    from reellama.pipeline.video.video_file import VideoFile

    return VideoFile(path)
