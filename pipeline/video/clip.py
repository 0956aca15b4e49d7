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

# "https:/a.b/c", "data:video/mp4;base64,...", and what a browser shows without a scheme.
_URL = re.compile(r"(?i)([a-z][a-z0-9+.-]+):(/+)|data:|www\.|[a-z0-9-]+\.(?:com|org|net|tv|be)/")
_SHOWN = 80  # characters of a URL

# A function that reads a video takes its path, or the video itself where it is open already.
VideoInput = str | Path | FrameSource


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


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames of a video and when they appear.

    frames:   T times uint8 RGB [height, width, 3], upright, with square pixels
    times:    float64 [T], seconds from the start of the video, ascending
    duration: seconds of the whole video; 0.0 for a still picture
    path:     what was read
    notes:    what a person should know, e.g. "asked for 64 frames, the file has 12"
    facts:    what the file says of itself; None for pictures
    subtitles: what is said in this part of the video, where somebody asked the video for it
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
        """Whether its frames are at least as wide as high, as they are shown."""
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
    """Frames of a video, an animated or still picture, or a folder of pictures.

    video:    a path, or what `open_video` gave, which stays open.
    options:  which frames; `changes` are fields of it: `read_frames(path, frames=8, start=2.0)`.
    progress: called as progress(done, total) after each step.
    on_first_frame: called with the first frame, while the others are still to be read.

    The pictures of a folder come in natural order, one second apart.
    Raises VideoError, with one line for people, when there is nothing to return.
    """
    options = replace(options, **changes)
    with opened(video) as source:
        n_file_notes = len(source.notes)  # on the file itself; those that follow are on this read
        taken: list[tuple[float, np.ndarray]] = []
        for time, rgb in select_frames(source, options, progress):
            if on_first_frame is not None and not taken:
                on_first_frame(rgb)
            taken.append((time, rgb))
        clip = Clip(
            frames=[rgb for _, rgb in taken],
            times=np.array([time for time, _ in taken], dtype=np.float64),
            duration=source.duration,
            path=source.path,
            notes=tuple(source.notes),
            facts=source.facts,
        )
        del source.notes[n_file_notes:]
        return clip


@contextmanager
def opened(video: VideoInput) -> Iterator[FrameSource]:
    """A video that is open in the `with` block: a path is opened and closed, and an open video is
    handed on as it is, for the caller to close."""
    if not isinstance(video, str | Path):
        yield video
        return
    with open_video(video) as source:
        yield source


def refuse_url(path: Path) -> None:
    """Raise VideoError where a URL was given in place of a path."""
    text = str(path)
    if not (found := _URL.match(text)) or path.exists():
        return
    rest = text[found.end() :]  # Path makes one slash of two
    if (found[1] or "").lower() == "file":
        raise VideoError(f"file:///{rest}: this is a URL; give the path: /{unquote(rest)}")
    url = f"{found[1]}://{rest}" if found[1] else text
    shown = url if len(url) <= _SHOWN else f"{url[:_SHOWN]}..."
    raise VideoError(f"{shown}: this is a URL, and nothing is fetched; save the video to a file")


def open_video(path: str | Path) -> FrameSource:
    """Open a video, a picture or a folder of pictures; VideoError says why it cannot be.

    with open_video("lecture.mp4") as video:
        read_frames(video, frames=8), read_frames(video, start=60)
    """
    # Pillow and FFmpeg take a while to import: each is imported where it is needed, and neither for
    # a video whose encoding is in the cache.
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
