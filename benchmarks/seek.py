"""Take 32 frames from an hour of 720p H.264, against decoding all of it.

python -m benchmarks.seek [--minutes 60] [--frames 32]

The film is one minute with moving textures, hard cuts and the encoder's usual keyframes (one in 250
frames, and at cuts), joined to the wanted length without encoding again.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, TypeVar

import av
import numpy as np

from reellama.pipeline.video.clip import read_frames

T = TypeVar("T")

RATE = 25
WIDTH, HEIGHT = 1280, 720
SECONDS_PER_SHOT = 8


def textures(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Clouds of several sizes, uint8 RGB [height, width, 3]: about as hard to encode as nature."""
    picture = np.zeros((height, width, 3), np.float32)
    for cell in (160, 40, 10, 5):
        coarse = rng.random((height // cell + 1, width // cell + 1, 3), dtype=np.float32)
        blown_up = coarse.repeat(cell, axis=0).repeat(cell, axis=1)
        picture += blown_up[:height, :width] * cell**0.5
    return (picture * (255.0 / picture.max())).astype(np.uint8)


def film(path: Path, seconds: int) -> None:
    """A 720p film: every 8 seconds another scene, over which the camera pans."""
    rng = np.random.default_rng(0)
    options = {"preset": "veryfast", "b": "2M"}
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for i in range(seconds * RATE):
            shift = i % (SECONDS_PER_SHOT * RATE)
            if shift == 0:
                scene = textures(rng, HEIGHT, WIDTH + SECONDS_PER_SHOT * RATE)
            view = np.ascontiguousarray(scene[:, shift : shift + WIDTH])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view, "rgb24")))
        container.mux(stream.encode(None))


def lengthen(source: Path, target: Path, times: int) -> None:
    """Write `source` to `target`, `times` times one after the other, without encoding again."""
    with av.open(target, "w") as output, av.open(source) as probe:
        template = probe.streams.video[0]
        stream = output.add_stream_from_template(template)
        length = Fraction(template.duration or 0) * Fraction(template.time_base or 1)
        for i in range(times):
            with av.open(source) as again:
                for packet in again.demux(again.streams.video[0]):
                    if packet.dts is None or packet.pts is None or packet.time_base is None:
                        continue  # the empty packet at the end
                    offset = int(i * length / packet.time_base)
                    packet.pts += offset
                    packet.dts += offset
                    packet.stream = stream
                    output.mux(packet)


def decode_whole(path: Path) -> int:
    """Decode every frame, as fast as FFmpeg goes; returns how many there were."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type = "AUTO"
        return sum(1 for _ in container.decode(stream))


class Seconds(NamedTuple):
    """Wall time, and processor time over all threads."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:.2f} s, {self.cpu:.2f} s of processor time"


def timed(work: Callable[[], T]) -> tuple[T, Seconds]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, default=60, help="length of the film")
    parser.add_argument("--frames", type=int, default=32, help="frames to take from it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        minute, path = Path(folder) / "minute.mp4", Path(folder) / "film.mp4"
        film(minute, seconds=60)
        lengthen(minute, path, args.minutes)
        size = path.stat().st_size / 1e6
        print(f"film: {args.minutes} min of {WIDTH}x{HEIGHT} H.264, {size:.0f} MB")

        clip, taken = timed(lambda: read_frames(path, frames=args.frames, max_side=224))
        print(f"{len(clip.frames)} frames taken: {taken}")
        frames, whole = timed(lambda: decode_whole(path))
        print(f"{frames} frames decoded: {whole}")
        print(f"ratio: {taken.wall / whole.wall:.3f} (target: 0.1 or less)", end="")
        print(f", of processor time {taken.cpu / whole.cpu:.3f} (fairer on a busy machine)")


if __name__ == "__main__":
    main()
