"""Small films that tests render: every frame shows its own number, so its time can be proved."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
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
    sound: float = 0.0,
    muxer_options: dict[str, str] | None = None,
) -> Path:
    """A film whose i-th frame, `draw(i)`, appears at `times[i]` seconds (multiples of 1/rate).

    `gop` frames lie between keyframes, at cuts too, so that tests know where they are. A tone of
    `sound` seconds goes with it.
    """
    options = {"g": str(gop), "sc_threshold": "0" if codec == "libx264" else "1000000000"}
    with av.open(path, "w", options=muxer_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        assert isinstance(stream, VideoStream)
        packets = _tone(container, sound) if sound else []
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        if pixel_aspect is not None:
            stream.sample_aspect_ratio = pixel_aspect
        for i, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(draw(i), "rgb24")
            frame.pts, frame.time_base = round(time * rate), Fraction(1, rate)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for packet in sorted(packets, key=lambda packet: (packet.dts or 0) * packet.time_base):
            container.mux(packet)
    return path


def _tone(container: OutputContainer, seconds: float) -> list[Packet[AudioStream]]:
    stream = container.add_stream("aac", rate=16000)
    assert isinstance(stream, AudioStream)
    tone = np.sin(np.arange(int(16000 * seconds)) / 8).astype(np.float32)[None]
    frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = 16000, 0, Fraction(1, 16000)
    return [*stream.encode(frame), *stream.encode(None)]


def steady(seconds: float, rate: int = 10) -> list[float]:
    """Times of frames at a constant rate."""
    return [i / rate for i in range(round(seconds * rate))]


def write_sound(path: Path, seconds: float = 1.0) -> Path:
    """A file with a tone and no picture."""
    with av.open(path, "w") as container:
        for packet in _tone(container, seconds):
            container.mux(packet)
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
