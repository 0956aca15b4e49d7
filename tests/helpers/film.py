"""Small films that tests render: every frame shows its own number, so its time can be proved."""

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream

WIDTH, HEIGHT = 160, 120
_COLUMNS, _ROWS = 4, 3
MATRIX_ONE = 1 << 16


def numbered(i: int) -> np.ndarray:
    """uint8 [120, 160, 3]: the number as twelve black or white squares, the lowest bit first."""
    bits = [(i >> bit) & 1 for bit in range(_COLUMNS * _ROWS)]
    squares = np.array(bits, np.uint8).reshape(_ROWS, _COLUMNS) * 255
    grey = squares.repeat(HEIGHT // _ROWS, axis=0).repeat(WIDTH // _COLUMNS, axis=1)
    return np.repeat(grey[..., None], 3, axis=2)


def number(rgb: np.ndarray) -> int:
    """The number that a picture shows, at any size."""
    height, width = rgb.shape[:2]
    rows = [(2 * row + 1) * height // (2 * _ROWS) for row in range(_ROWS)]
    columns = [(2 * column + 1) * width // (2 * _COLUMNS) for column in range(_COLUMNS)]
    bits = (rgb[..., 1][np.ix_(rows, columns)] > 127).ravel()
    return sum(int(bit) << i for i, bit in enumerate(bits))


def corners(_: int = 0) -> np.ndarray:
    """Red, green over blue, white: turning or mirroring it shows."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[: HEIGHT // 2, : WIDTH // 2, 0] = 255
    picture[: HEIGHT // 2, WIDTH // 2 :, 1] = 255
    picture[HEIGHT // 2 :, : WIDTH // 2, 2] = 255
    picture[HEIGHT // 2 :, WIDTH // 2 :] = 255
    return picture


def write_film(
    path: Path,
    times: Iterable[float],
    *,
    codec: str = "libx264",
    draw: Callable[[int], np.ndarray] = numbered,
    gop: int = 10,
    rate: int = 10,
    pixel_aspect: Fraction | None = None,
    pix_fmt: str = "yuv420p",
) -> Path:
    """A film whose i-th frame, `draw(i)`, appears at `times[i]` seconds (multiples of 1/rate).

    `gop` frames lie between keyframes, at cuts too, so that tests know where they are.
    """
    options = {"g": str(gop), "sc_threshold": "0" if codec == "libx264" else "1000000000"}
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        if pixel_aspect is not None:
            stream.sample_aspect_ratio = pixel_aspect
        for i, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(draw(i), "rgb24")
            frame.pts, frame.time_base = round(time * rate), Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def steady(seconds: float, rate: int = 10) -> list[float]:
    """Times of frames at a constant rate."""
    return [i / rate for i in range(round(seconds * rate))]


def write_sound(path: Path, seconds: float = 1.0) -> Path:
    """A file with a tone and no picture."""
    with av.open(path, "w") as container:
        stream = container.add_stream("aac", rate=16000)
        tone = np.sin(np.arange(int(16000 * seconds)) / 8).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Write a rotation or mirroring into an MP4, as a phone does, over the identity in its tkhd."""
    data = path.read_bytes()
    identity = np.array([MATRIX_ONE, 0, 0, 0, MATRIX_ONE, 0, 0, 0, 1 << 30], ">i4").tobytes()
    wanted = [value * MATRIX_ONE for value in (a, b, 0, c, d, 0, 0, 0)]
    at = data.index(identity, data.index(b"tkhd"))
    matrix = np.array([*wanted, 1 << 30], ">i4").tobytes()
    path.write_bytes(data[:at] + matrix + data[at + len(matrix) :])
    return path
