"""Pictures as a `FrameSource`: a still, an animated GIF, WebP or PNG, or a folder of pictures.

Pillow reads pictures, as it applies the rotation that a camera stored in the file, and decodes
animated WebP, which not every build of FFmpeg does.
"""

from __future__ import annotations

import logging
import re
import struct
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from reellama.pipeline.video.file_signature import VIDEO_SUFFIXES
from reellama.pipeline.video.pictures.geometry import display_size
from reellama.pipeline.video.source import FileFacts, Frame, FrameSource, VideoError
from reellama.pipeline.video.subtitles import Subtitle

# Formats that Pillow decodes well; it can open more (of MPEG only the header).
_ANIMATED = ("GIF", "PNG", "WEBP")
_FORMATS = (*_ANIMATED, "BMP", "DIB", "ICO", "JPEG", "JPEG2000", "PPM", "TGA", "TIFF")
_SUFFIXES = {".bmp", ".gif", ".jp2", ".jpe", ".jpeg", ".jpg", ".png", ".ppm", ".tga"}
_SUFFIXES |= {".tif", ".tiff", ".webp"}
# Motion JPEG, of which Pillow would read only the first frame.
_FILMS = {".mjpeg", ".mjpg"}
# Pillow also logs some damage that it raises, which without a handler would go to stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())
# Exceptions that Pillow's decoders raise for a damaged file.
_DAMAGE = (
    Image.DecompressionBombError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)
# Seconds between the pictures of a folder.
FOLDER_STEP = 1.0
# Browsers show a frame of less than 20 ms for 100 ms, which animations rely on.
_SHORTEST, _DEFAULT = 0.02, 0.1

_Load = Callable[[int, "int | None"], np.ndarray]


class ImageSequence(FrameSource):
    """Pictures with times, as a `FrameSource`. `load(i, max_side)` reads picture i."""

    def __init__(
        self,
        path: Path,
        times: Sequence[float],
        duration: float,
        load: _Load,
        close: Callable[[], None] = lambda: None,
    ):
        self.path = path
        self.duration = duration
        self.notes: list[str] = []
        self.facts: FileFacts | None = None
        self.times = list(times)
        self._load = load
        self._close = close

    def subtitles(self) -> tuple[Subtitle, ...]:
        """No subtitles: pictures have none."""
        return ()

    def close(self) -> None:
        """Close the file."""
        self._close()

    def frames_at(self, times: Sequence[float], *, coarse: bool = False) -> Iterator[Frame]:
        """The pictures on screen at `times`; see `FrameSource`."""
        last = -1
        for time in times:
            i = max(0, bisect_right(self.times, time) - 1)
            if i != last:
                yield self._frame(i)
            last = i

    def frames_between(self, start: float, end: float) -> Iterator[Frame]:
        """The pictures on screen in [start, end)."""
        for i in self._indices(start, end):
            yield self._frame(i)

    def frame_times(self, start: float, end: float) -> Iterator[float]:
        """The times of the pictures on screen in [start, end)."""
        return (self.times[i] for i in self._indices(start, end))

    def keyframe_times(self, start: float, end: float) -> Iterator[float]:
        """The times of the pictures that appear in [start, end); all are keyframes."""
        return (time for time in self.times if start <= time < end)

    def _indices(self, start: float, end: float) -> range:
        first = max(0, bisect_right(self.times, start) - 1)
        return range(first, max(first + 1, sum(time < end for time in self.times)))

    def _frame(self, i: int) -> Frame:
        return Frame(self.times[i], partial(self._load, i))


def open_image(path: Path) -> ImageSequence | None:
    """Open a still or animated picture; None if Pillow does not recognize the file.

    Raises VideoError for a damaged picture.
    """
    if path.suffix.lower() in _FILMS:
        return None
    try:
        with warnings.catch_warnings():
            # Large photos are accepted; Pillow still raises for one that would fill the memory.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                animated = image.format in _ANIMATED and getattr(image, "is_animated", False)
                times, duration, complete = _timing(image) if animated else ([0.0], 0.0, True)
    except UnidentifiedImageError:
        return None
    except _DAMAGE as error:
        raise VideoError(f"{path}: this picture is damaged ({_line(error)})") from None
    if not animated:
        return ImageSequence(path, times, duration, lambda i, max_side: load_image(path, max_side))
    animation = _Animation(path)
    pictures = ImageSequence(path, times, duration, animation.load, animation.close)
    if not complete:
        pictures.notes.append(f"the file breaks off after {duration:.1f} s")
    return pictures


def open_image_folder(path: Path) -> ImageSequence:
    """Open the pictures in a folder, in natural order (img2 before img10), one second apart.

    Subfolders and hidden files are left out. Videos are left out with a note. Raises VideoError if
    there is no picture.
    """
    try:
        visible = [p for p in path.iterdir() if p.is_file() and not p.name.startswith(".")]
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise VideoError(f"{path}: this folder cannot be opened ({reason})") from None
    files = sorted((p for p in visible if p.suffix.lower() in _SUFFIXES), key=natural_key)
    n_videos = sum(p.suffix.lower() in VIDEO_SUFFIXES for p in visible)
    if not files and n_videos:
        raise VideoError(
            f"{path}: videos are given one by one, not as a folder (it has {n_videos})"
        )
    if not files:
        raise VideoError(
            f"{path}: no pictures in this folder; give a folder of JPEG, PNG or the like"
        )
    times = [i * FOLDER_STEP for i in range(len(files))]
    duration = len(files) * FOLDER_STEP
    pictures = ImageSequence(
        path, times, duration, lambda i, max_side: load_image(files[i], max_side)
    )
    if n_videos:
        pictures.notes.append(f"left out {n_videos} of the folder's files: give videos one by one")
    return pictures


def at_times(pictures: ImageSequence, times: Sequence[float]) -> ImageSequence:
    """Set the times of `pictures` (seconds, ascending); returns `pictures`.

    The last picture gets the mean duration of the others. Raises VideoError if the numbers of
    pictures and times differ.
    """
    if len(times) != len(pictures.times):
        raise VideoError(f"{len(pictures.times)} pictures have {len(times)} times: give one each")
    step = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else FOLDER_STEP
    pictures.times, pictures.duration = list(times), times[-1] + step
    return pictures


def natural_key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """A sort key that compares numbers in names by value: img2 before img10."""
    parts = re.findall(r"(\d+)|(\D+)", path.name.casefold())
    return [(0, int(n), "") if n else (1, 0, text) for n, text in parts], path.name


def load_image(path: Path, max_side: int | None = None) -> np.ndarray:
    """Read a picture, upright, as uint8 RGB `[height, width, 3]`.

    max_side: the most pixels on the longer side; None means the stored size.

    Raises VideoError for a damaged picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                if max_side:
                    image.draft("RGB", (max_side, max_side))  # decodes a JPEG smaller, so faster
                return _rgb(ImageOps.exif_transpose(image), max_side)
    except _DAMAGE as error:
        raise VideoError(f"{path}: this picture cannot be read ({_line(error)})") from None


class _Animation:
    """Frames of an animated picture by index; reading in order decodes each frame once."""

    def __init__(self, path: Path):
        self._path = path
        self._image = Image.open(path, formats=_FORMATS)

    def load(self, i: int, max_side: int | None) -> np.ndarray:
        try:
            self._image.seek(i)
            return _rgb(self._image, max_side)
        except _DAMAGE as error:
            raise VideoError(f"{self._path}: frame {i} is damaged ({_line(error)})") from None

    def close(self) -> None:
        self._image.close()


def _timing(image: Image.Image) -> tuple[list[float], float, bool]:
    """Times of the frames, their total duration, and whether the file is complete."""
    times: list[float] = []
    now = 0.0
    for i in count():
        try:
            image.seek(i)
            image.load()
        except EOFError:
            return times, now, True
        except _DAMAGE:  # cut off: the frames before are intact
            if not times:
                raise
            return times, now, False
        times.append(now)
        seconds = float(image.info.get("duration") or 0.0) / 1000.0
        now += seconds if seconds >= _SHORTEST else _DEFAULT
    raise AssertionError("unreachable")


def _rgb(image: Image.Image, max_side: int | None) -> np.ndarray:
    """Convert into uint8 `[height, width, 3]`, with transparent areas in white, as on a page."""
    size = display_size(*image.size, max_side=max_side)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    image = image.convert("RGB")
    if size != image.size:
        image = image.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
    return np.array(image)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
