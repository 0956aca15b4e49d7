"""200 files under `reellama watch`, whose workers are killed every few seconds.

At the end each file must have exactly one whole JSON and one whole SRT, none of them written twice,
and nothing else may lie in the folder.

    python -m benchmarks.watch
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np

from reellama.pipeline.long_video.watch_folder import STATE_FOLDER

WORKERS = 2
LIFE = (6.0, 14.0)  # seconds, of which a worker takes four to load its models


def video(path: Path, number: int) -> None:
    """A second of a square that moves, in a colour of its own."""
    colour = np.random.default_rng(number).integers(0, 255, 3)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for i in range(12):
            picture = np.full((240, 320, 3), 128, np.uint8)
            picture[90:150, 16 * i : 16 * i + 60] = colour
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))


def start(folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "reellama.pipeline.cli.main", "watch", str(folder)]
    command += ["--once", "--settled", "0", "--threads", "1", "--no-cache"]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=200)
    n = parser.parse_args().files
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(n):
            video(folder / f"{number:03}.mp4", number)
        written: dict[str, int] = {}
        twice, kills, begin = set(), 0, time.monotonic()
        workers = [(start(folder), time.monotonic() + rng.uniform(*LIFE)) for _ in range(WORKERS)]
        while any(process.poll() is None for process, _ in workers):
            time.sleep(0.1)
            for i, (process, until) in enumerate(workers):
                if process.poll() is None and time.monotonic() > until:
                    process.kill()
                    process.wait()
                    kills += 1
                    workers[i] = start(folder), time.monotonic() + rng.uniform(*LIFE)
            for path in folder.glob("*.json"):
                date = path.stat().st_mtime_ns
                if written.setdefault(path.name, date) != date:
                    twice.add(path.name)
        seconds = time.monotonic() - begin
        whole = sum(bool(json.loads(p.read_text())["scenes"]) for p in folder.glob("*.mp4.json"))
        subtitles = sum(p.read_text().startswith("1\n") for p in folder.glob("*.mp4.srt"))
        other = len(list(folder.iterdir())) - 3 * n - (folder / STATE_FOLDER).is_dir()
    print(f"{n} files, {WORKERS} workers, {kills} kills in {seconds:.0f} s")
    print(f"{whole} whole JSON, {subtitles} whole SRT, {len(twice)} written twice, {other} others")
    sys.exit(not (whole == subtitles == n and not twice and not other and kills))


if __name__ == "__main__":
    main()
