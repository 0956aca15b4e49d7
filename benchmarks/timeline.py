"""The timeline of a two-hour video: times real time, peak memory, a question about one scene.

The video is made by drawing 24 clips of ten seconds (720p, 25 frames a second) and joining them
over and over, with one scene of its own in between.

    python -m benchmarks.timeline
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

from reellama.models.synthetic.assets.pictures import Picture, load_pictures, shape_kinds
from reellama.models.synthetic.render import frame_times, render
from reellama.models.synthetic.scene_generation import random_scene
from reellama.pipeline.long_video.timeline import LongVideo
from reellama.pipeline.video.timestamps import format_time

SIZE, FPS, SECONDS, CLIPS = (1280, 720), 25, 10, 24
FAST = {"preset": "veryfast", "bf": "0"}
SOUGHT, QUESTION = "red star", "Which way does the red star move?"


def clip(path: Path, picture: Picture, seed: int, motion: str | None = None) -> None:
    rng = np.random.default_rng(seed)
    scene = random_scene(rng, [picture], size=SIZE, p_two=0, picture=picture, motion=motion)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=FAST)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        times = frame_times(scene.duration, SECONDS * FPS)
        for picture_ in render(scene, times):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture_, "rgb24")))
        container.mux(stream.encode(None))


def join(paths: Sequence[Path], out: Path) -> None:
    """Clips one after another, without decoding them."""
    with av.open(out, "w") as container:
        target = None
        for number, path in enumerate(paths):
            with av.open(path) as source:
                (stream,) = source.streams.video
                target = target or container.add_stream_from_template(stream)
                assert stream.time_base is not None
                start = round(number * SECONDS / stream.time_base)
                for packet in source.demux(stream):
                    if packet.pts is not None and packet.dts is not None:
                        packet.pts, packet.dts = packet.pts + start, packet.dts + start
                        packet.stream = target
                        container.mux(packet)


def film(path: Path, minutes: float) -> float:
    """Write the film; returns where the sought scene begins, in seconds."""
    kinds = [kind for kind in shape_kinds() if kind != SOUGHT][:CLIPS]
    folder = path.parent
    clips = []
    for number, kind in enumerate(kinds):
        clips.append(folder / f"{number}.mp4")
        clip(clips[-1], load_pictures(("shapes",), kinds=[kind])[0], number)
    sought = folder / "sought.mp4"
    clip(sought, load_pictures(("shapes",), kinds=[SOUGHT])[0], 7, "moves right")
    n = round(minutes * 60 / SECONDS)
    order = [clips[i % len(clips)] for i in range(n)]
    place = n * 2 // 3
    order[place] = sought
    join(order, path)
    return float(place * SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=120)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        place = film(path, minutes)
        with LongVideo(cache=Path(folder) / "moments") as long_video:
            begin, computed = time.perf_counter(), time.process_time()
            timeline = long_video.timeline(path)
            seconds, computed = time.perf_counter() - begin, time.process_time() - computed
            asked = time.perf_counter()
            (best, *_) = long_video.ask(path, QUESTION)
            answered = time.perf_counter() - asked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rate = timeline.duration / seconds
    print(f"{timeline.duration / 60:.0f} minutes of 720p, {len(timeline.scenes)} scenes")
    print(
        f"timeline in {seconds:.0f} s: {rate:.1f} times real time; peak memory {peak / 1e9:.2f} GB"
    )
    print(f"processor time {computed:.0f} s: {timeline.duration / computed:.1f} times real time")
    times = f"{format_time(best.start)} - {format_time(best.end)}"
    print(f"{QUESTION} {times}: {best.text} ({answered:.1f} s)")
    found = best.start - SECONDS <= place <= best.end
    print(f"its scene begins at {format_time(place)}: {'found' if found else 'not found'}")
    sys.exit(not (found and rate >= 20 and peak < 1.5e9))


if __name__ == "__main__":
    main()
