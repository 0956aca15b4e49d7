"""Damaged videos through the reader: none may crash it, hang it, or fill the memory.

python -m benchmarks.damaged_videos [--files 10000] [--seed 0] [--keep DIR]

A short film is written in every container that the tests read. Each file is then damaged by
chance: bits flipped, the end cut off, a stretch of bytes removed, doubled, zeroed or moved, or a
number of four bytes, such as the size of a box, replaced. Child processes read eight frames of
each; one that dies, or takes longer than LIMIT on the clock, is counted and started again.

read      frames came
refused   a line for people (VideoError)
other     another exception: a fault
crashed   the child died: a fault
hung      no answer within the limit: a fault
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue

import av
import numpy as np
from PIL import Image

LIMIT = 30.0  # seconds for one file
MEMORY = 2 << 30  # bytes of address space of a child
SIZE, SECONDS, RATE = (160, 120), 3, 10
# Ending -> codec.
CONTAINERS = {
    "mp4": "libx264", "mov": "mpeg4", "mkv": "libx264", "webm": "libvpx-vp9", "avi": "mpeg4",
    "flv": "libx264", "ts": "libx264", "mpg": "mpeg1video", "h264": "libx264", "wmv": "wmv2",
    "3gp": "mpeg4", "m2ts": "libx264", "ogv": "libvpx", "vob": "mpeg2video", "mxf": "mpeg2video",
}  # fmt: skip
PICTURES = ("gif", "webp", "png")


def frames() -> list[np.ndarray]:
    """A square that moves over noise, uint8 [120, 160, 3]."""
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 255, (SIZE[1] // 8, SIZE[0] // 8, 3)).repeat(8, 0).repeat(8, 1)
    found = []
    for i in range(SECONDS * RATE):
        picture = ground.astype(np.uint8)
        picture[40:80, 3 * i : 3 * i + 40] = (255, 0, 0)
        found.append(picture)
    return found


def write_whole(folder: Path) -> list[Path]:
    """The film in every container."""
    paths = [folder / f"whole.{ending}" for ending in (*CONTAINERS, *PICTURES)]
    for path in paths[: len(CONTAINERS)]:
        with av.open(path, "w") as container:
            codec = CONTAINERS[path.suffix[1:]]
            rate = 25 if codec.endswith("video") else RATE  # MPEG-1 and 2 know no slower one
            stream = container.add_stream(codec, rate=rate, options={"g": "10"})
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
            for picture in frames():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            container.mux(stream.encode(None))
    for path in paths[len(CONTAINERS) :]:
        first, *rest = map(Image.fromarray, frames()[::3])
        first.save(path, save_all=True, append_images=rest, duration=300)
    return paths


def flip(data: bytearray, rng: np.random.Generator) -> bytearray:
    for _ in range(int(2 ** rng.uniform(0, 8))):
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    return data


def cut(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data[: rng.integers(1, len(data))]


def stretch(data: bytearray, rng: np.random.Generator) -> slice:
    start = int(rng.integers(len(data)))
    return slice(start, start + int(2 ** rng.uniform(0, np.log2(len(data)))))


def remove(data: bytearray, rng: np.random.Generator) -> bytearray:
    del data[stretch(data, rng)]
    return data


def double(data: bytearray, rng: np.random.Generator) -> bytearray:
    part = stretch(data, rng)
    data[part.start : part.start] = data[part]
    return data


def zero(data: bytearray, rng: np.random.Generator) -> bytearray:
    part = stretch(data, rng)
    data[part] = bytes(len(data[part]))
    return data


def move(data: bytearray, rng: np.random.Generator) -> bytearray:
    part = data[where := stretch(data, rng)]
    del data[where]
    at = int(rng.integers(len(data) + 1))
    data[at:at] = part
    return data


def number(data: bytearray, rng: np.random.Generator) -> bytearray:
    at = int(rng.integers(max(1, min(len(data), 4096) - 4)))
    values = (0, 1, 8, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, int(rng.integers(1 << 32)))
    data[at : at + 4] = values[rng.integers(len(values))].to_bytes(4, "big")
    return data


DAMAGES: tuple[Callable[[bytearray, np.random.Generator], bytearray], ...] = (
    flip, cut, remove, double, zero, move, number,
)  # fmt: skip


def read_files() -> None:
    """What a child does: a path a line in, how it went a line out."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    from reellama.pipeline.video.clip import read_frames
    from reellama.pipeline.video.source import VideoError

    for line in sys.stdin:
        began = time.perf_counter()
        try:
            read_frames(line.strip(), frames=8, max_side=64)
            outcome = "read"
        except VideoError:
            outcome = "refused"
        except Exception as error:  # noqa: BLE001  # what is looked for
            outcome = f"other: {type(error).__name__}: {str(error)[:200]}".replace("\n", " ")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        sys.stdout.write(f"{time.perf_counter() - began:.3f}\t{peak}\t{outcome}\n")
        sys.stdout.flush()


class Reader:
    """A child that reads one file after the other."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "benchmarks.damaged_videos", "--child"]
        pipe = subprocess.PIPE
        self.child = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
        )
        self.lines: SimpleQueue[str] = SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            self.lines.put(line)
        self.lines.put("")  # it died

    def read(self, path: Path) -> tuple[float, int, str]:
        """Seconds, MiB at most so far, and how it went."""
        assert self.child.stdin is not None
        self.child.stdin.write(f"{path}\n")
        self.child.stdin.flush()
        try:
            line = self.lines.get(timeout=LIMIT)
        except Empty:
            return LIMIT, 0, "hung"
        if not line:
            return 0.0, 0, f"crashed: {self.child.wait()}"
        seconds, peak, outcome = line.rstrip("\n").split("\t", 2)
        return float(seconds), int(peak), outcome

    def close(self) -> None:
        """End the child."""
        self.child.kill()
        self.child.wait()


def damaged(whole: list[Path], count: int, seed: int) -> Iterator[tuple[str, str, bytes]]:
    """(ending, damage, bytes) of `count` files, one container after the other."""
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        path, damage = whole[i % len(whole)], DAMAGES[rng.integers(len(DAMAGES))]
        yield path.suffix, damage.__name__, bytes(damage(bytearray(path.read_bytes()), rng))


def main() -> None:
    """Damage, read, count."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that show a fault")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        read_files()
        return
    counts: Counter[str] = Counter()
    slowest, most = 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        whole = write_whole(Path(folder))
        reader = Reader()
        for i, (ending, damage, data) in enumerate(damaged(whole, given.files, given.seed)):
            path = Path(folder) / f"damaged{ending}"
            path.write_bytes(data)
            seconds, peak, outcome = reader.read(path)
            kind = outcome.partition(":")[0]
            counts[kind] += 1
            slowest, most = max(slowest, seconds), max(most, peak)
            if kind in ("other", "crashed", "hung"):
                print(f"{i} {ending} {damage}: {outcome}", flush=True)
                if given.keep:
                    given.keep.mkdir(parents=True, exist_ok=True)
                    (given.keep / f"{i}-{damage}{ending}").write_bytes(data)
            if kind in ("crashed", "hung"):
                reader.close()
                reader = Reader()
        reader.close()
    print(dict(counts), f"slowest {slowest:.1f} s, most memory {most} MiB")


if __name__ == "__main__":
    main()
