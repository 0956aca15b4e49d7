"""Pictures as a `FrameSource`: a still, an animated GIF, WebP or PNG, or a folder of pictures.

Pillow reads these: it knows the turn that a camera wrote into the file, and animated WebP, which
not every FFmpeg decodes.
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

# Pillow can open more (even MPEG, as a mere header); these are the ones that it reads well.
_ANIMATED = ("GIF", "PNG", "WEBP")
_FORMATS = (*_ANIMATED, "BMP", "DIB", "ICO", "JPEG", "JPEG2000", "PPM", "TGA", "TIFF")
_SUFFIXES = {".bmp", ".gif", ".jp2", ".jpe", ".jpeg", ".jpg", ".png", ".ppm", ".tga"}
_SUFFIXES |= {".tif", ".tiff", ".webp"}
# A film of JPEGs, one after another: Pillow would stop at the first.
_FILMS = {".mjpeg", ".mjpg"}
# Pillow logs some damage that it also raises; without a handler that would go to stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())
# Exceptions that Pillow's readers are known to raise for a damaged file.
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
# Browsers show a frame that asks for less than 20 ms for 100 ms, and animations rely on it.
_SHORTEST, _DEFAULT = 0.02, 0.1

_Load = Callable[[int, "int | None"], np.ndarray]


class ImageSequence(FrameSource):
    """Pictures at known times, as a `FrameSource`. `load(i, max_side)` reads number i."""

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
        """When the pictures on screen in [start, end) appear."""
        return (self.times[i] for i in self._indices(start, end))

    def keyframe_times(self, start: float, end: float) -> Iterator[float]:
        """Times of the pictures that appear in [start, end): each stands by itself."""
        return (time for time in self.times if start <= time < end)

    def _indices(self, start: float, end: float) -> range:
        first = max(0, bisect_right(self.times, start) - 1)
        return range(first, max(first + 1, sum(time < end for time in self.times)))

    def _frame(self, i: int) -> Frame:
        return Frame(self.times[i], partial(self._load, i))


def open_image(path: Path) -> ImageSequence | None:
    """The still or animated picture at `path`, or None where it is not one that Pillow knows."""
    if path.suffix.lower() in _FILMS:
        return None
    try:
        with warnings.catch_warnings():
            # A large photo is no attack; Pillow still refuses one that would fill the memory.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                animated = image.format in _ANIMATED and getattr(image, "is_animated", False)
                times, duration, whole = _timing(image) if animated else ([0.0], 0.0, True)
    except UnidentifiedImageError:
        return None
    except _DAMAGE as error:
        raise VideoError(f"{path}: this picture is damaged ({_line(error)})") from None
    if not animated:
        return ImageSequence(path, times, duration, lambda i, max_side: load_image(path, max_side))
    animation = _Animation(path)
    pictures = ImageSequence(path, times, duration, animation.load, animation.close)
    if not whole:
        pictures.notes.append(f"the file breaks off after {duration:.1f} s")
    return pictures


def open_image_folder(path: Path) -> ImageSequence:
    """The pictures in a folder, in natural order (img2 before img10), one second apart.

    Folders in it and hidden files are left out; so are videos, and a note says that. Raises
    VideoError where there is no picture.
    """
    try:
        visible = [p for p in path.iterdir() if p.is_file() and not p.name.startswith(".")]
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise VideoError(f"{path}: this folder cannot be opened ({reason})") from None
    files = sorted((p for p in visible if p.suffix.lower() in _SUFFIXES), key=natural_key)
    videos = sum(p.suffix.lower() in VIDEO_SUFFIXES for p in visible)
    if not files and videos:
        raise VideoError(f"{path}: videos are given one by one, not as a folder (it has {videos})")
    if not files:
        raise VideoError(
            f"{path}: no pictures in this folder; give a folder of JPEG, PNG or the like"
        )
    times = [i * FOLDER_STEP for i in range(len(files))]
    duration = len(files) * FOLDER_STEP
    pictures = ImageSequence(
        path, times, duration, lambda i, max_side: load_image(files[i], max_side)
    )
    if videos:
        pictures.notes.append(f"left out {videos} of the folder's files: give videos one by one")
    return pictures


def at_times(pictures: ImageSequence, times: Sequence[float]) -> ImageSequence:
    """Show `pictures` at `times` (seconds, ascending), the last for as long as the others mostly.

    Raises VideoError for another number of times.
    """
    if len(times) != len(pictures.times):
        raise VideoError(f"{len(pictures.times)} pictures have {len(times)} times: give one each")
    step = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else FOLDER_STEP
    pictures.times, pictures.duration = list(times), times[-1] + step
    return pictures


def natural_key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Sorts numbers in a name by value: img2 before img10."""
    parts = re.findall(r"(\d+)|(\D+)", path.name.casefold())
    return [(0, int(n), "") if n else (1, 0, text) for n, text in parts], path.name


def load_image(path: Path, max_side: int | None = None) -> np.ndarray:
    """The picture at `path`, upright, as uint8 RGB [height, width, 3]; VideoError if damaged."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                if max_side:
                    image.draft("RGB", (max_side, max_side))  # JPEG decodes smaller, and faster
                return _rgb(ImageOps.exif_transpose(image), max_side)
    except _DAMAGE as error:
        raise VideoError(f"{path}: this picture cannot be read ({_line(error)})") from None


class _Animation:
    """Frames of an animated picture by number; going forward decodes each of them once."""

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
    """Times of the frames, their whole duration, and whether the file holds all of them."""
    times: list[float] = []
    now = 0.0
    for i in count():
        try:
            image.seek(i)
            image.load()
        except EOFError:
            return times, now, True
        except _DAMAGE:  # cut off: what came before it is fine
            if not times:
                raise
            return times, now, False
        times.append(now)
        seconds = float(image.info.get("duration") or 0.0) / 1000.0
        now += seconds if seconds >= _SHORTEST else _DEFAULT
    raise AssertionError("unreachable")


def _rgb(image: Image.Image, max_side: int | None) -> np.ndarray:
    """uint8 [height, width, 3]; what is transparent shows white, as on a page."""
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
