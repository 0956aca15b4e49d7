"""Films with a high dynamic range: they look as their twin for a standard display does."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.stream import VideoStream

from reellama.pipeline.video.clip import read_frames
from tests.helpers.film import HEIGHT, WIDTH

PQ, HLG, BT2020 = 16, 18, 9
WHITE = 203  # candela a square metre of white paper, by BT.2408
# sRGB: greys, skin, leaves, sky, and strong colours.
COLOURS = [(0, 0, 0), (60, 60, 60), (128, 128, 128), (190, 190, 190)]
COLOURS += [(190, 140, 115), (85, 120, 50), (90, 140, 190), (190, 40, 40)]


def chart() -> np.ndarray:
    """uint8 sRGB [120, 160, 3]: the colours in four columns and two rows."""
    squares = np.array(COLOURS, np.uint8).reshape(2, 4, 3)
    return squares.repeat(HEIGHT // 2, axis=0).repeat(WIDTH // 4, axis=1)


def middles(rgb: np.ndarray) -> np.ndarray:
    """The colours that `rgb` shows, [8, 3]."""
    height, width = rgb.shape[:2]
    return rgb[height // 4 :: height // 2, width // 8 :: width // 4].reshape(-1, 3).astype(int)


def pq_signal(nits: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084."""
    power = (nits / 10000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def hlg_signal(nits: np.ndarray) -> np.ndarray:
    """ITU-R BT.2100, for a display of 1000 candela a square metre."""
    display = nits / 1000
    luminance = display @ [0.2627, 0.6780, 0.0593]
    scene = display * np.maximum(luminance, 1e-9)[..., None] ** (1 / 1.2 - 1)
    high = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), high)


def hdr_planes(srgb: np.ndarray, signal: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
    """Y', Cb and Cr, 10 bits of limited range, of a picture whose white is as bright as paper."""
    linear = srgb / 255
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    to_bt2020 = [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
    red, green, blue = np.moveaxis(signal(WHITE * linear @ np.transpose(to_bt2020)), -1, 0)
    y = 0.2627 * red + 0.6780 * green + 0.0593 * blue
    cb, cr = ((blue - y) / 1.8814)[::2, ::2], ((red - y) / 1.4746)[::2, ::2]
    return [plane.round().astype("<u2") for plane in (64 + 876 * y, 512 + 896 * cb, 512 + 896 * cr)]


def write_hdr(path: Path, transfer: int, planes: list[np.ndarray]) -> Path:
    frame = av.VideoFrame(WIDTH, HEIGHT, "yuv420p10le")
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.zeros((plane.height, plane.line_size // 2), "<u2")
        rows[:, : values.shape[1]] = values
        plane.update(rows.tobytes())
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "5"})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p10le"
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace = transfer, BT2020, BT2020
        frame.color_trc, frame.color_primaries, frame.colorspace = transfer, BT2020, BT2020
        for i in range(3):
            frame.pts, frame.time_base = i, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("transfer", "signal"), [(PQ, pq_signal), (HLG, hlg_signal)])
@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_a_film_for_hdr_displays_shows_its_true_colours(tmp_path: Path, transfer, signal, kind):
    path = write_hdr(tmp_path / f"hdr.{kind}", transfer, hdr_planes(chart(), signal))
    for side in (None, 80):
        frame = read_frames(path, frames=1, max_side=side).frames[0]
        assert np.abs(middles(frame) - COLOURS).max() <= 8


@pytest.mark.parametrize(("transfer", "signal"), [(PQ, pq_signal), (HLG, hlg_signal)])
def test_light_brighter_than_paper_is_compressed_and_not_clipped(tmp_path: Path, transfer, signal):
    nits = np.array([50, 100, 150, 203, 350, 500, 700, 1000]).reshape(2, 4, 1)
    grey = nits.repeat(3, 2).repeat(HEIGHT // 2, axis=0).repeat(WIDTH // 4, axis=1)
    y = 64 + 876 * signal(grey.astype(float))[..., 0]
    chroma = np.full((HEIGHT // 2, WIDTH // 2), 512, "<u2")
    path = write_hdr(tmp_path / "bright.mp4", transfer, [y.round().astype("<u2"), chroma, chroma])
    shown = middles(read_frames(path, frames=1).frames[0])[:, 1]
    assert np.all(np.diff(shown) >= 1)
    assert shown[-1] <= 255
    assert shown[3] > 220  # paper is white
