"""Hard cuts, found frame by frame: when the picture is another from one frame to the next.

    finder = CutFinder()
    with open_video("film.mp4") as video:
        for frame in video.frames_between(0, video.duration):
            finder.add(frame)
    for cut in finder.cuts():
        print(cut.time, cut.strength)

At a cut, all of the frames just before it are unlike all of those just after it. So the nearest
pair across each boundary counts: where something moves, that is the boundary's own two frames,
and across a flash of light it is the frames around the flash. A cut is where even the nearest pair
is further apart than frames follow each other beside it. The distance is that of pixels plus that
of shapes, which are pixels without colour, brightness and contrast: scenes may share their colours.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from reellama.pipeline.video.source import Frame, VideoError

SIDE = 32  # pixels on the longest side of a frame that is compared
REACH_SECONDS = 0.25  # seconds on either side of a boundary whose frames are compared
MIN_STEP = 1 / 32  # seconds: at higher frame rates some are left out
MIN_CUT_SECONDS = 0.3  # seconds between two cuts at least
_BLOCK = 512  # boundaries that are scored at once, which bounds the memory

# Log odds of a cut: a bias and the weights of two logarithms, of the distance of the nearest pair
# across the boundary and of the largest step beside it. A logistic regression on films joined of
# photographs, web videos, robots and drawn clips:
# `python -m benchmarks.cut_detection --data DIR --films 60 --fit`
_BIAS, _ACROSS, _BESIDE = 0.26, 7.83, -1.13
_PIXELS = 2.0  # weight of pixels, from 0 to 1, beside shapes, whose deviation is 1
_NO_DISTANCE = 0.02  # is added to distances, so that frames that are alike have a logarithm


class Cut(NamedTuple):
    """`time`: seconds of the first frame after it; `strength`: its log odds, above 0."""

    time: float
    strength: float


class CutFinder:
    """Takes frames one by one, in order, and says where the cuts are between them."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.samples: list[np.ndarray] = []  # uint8 RGB [height, width, 3], up to SIDE pixels

    def add(self, frame: Frame) -> None:
        """Look at one more frame; one that cannot be decoded is passed over."""
        if self.times and frame.time - self.times[-1] < MIN_STEP:
            return
        try:
            sample = frame.rgb(SIDE)
        except VideoError:
            return
        if self.samples and sample.shape != self.samples[0].shape:  # another size, from here on
            height, width = self.samples[0].shape[:2]
            sample = np.asarray(Image.fromarray(sample).resize((width, height)))
        self.times.append(frame.time)
        self.samples.append(sample)

    def cuts(self) -> list[Cut]:
        """The cuts between the frames so far, ascending."""
        if len(self.times) < 2:
            return []
        times, scores = np.array(self.times), self.scores()
        cuts: list[Cut] = []
        for i in np.argsort(-scores, kind="stable"):
            if scores[i] <= 0:
                break
            if all(abs(cut.time - times[i]) >= MIN_CUT_SECONDS for cut in cuts):
                cuts.append(Cut(float(times[i]), float(scores[i])))
        return sorted(cuts)

    def scores(self) -> np.ndarray:
        """Log odds that a cut lies just before each frame, float64 [T]; -inf for the first."""
        across, beside = self.distances()
        scores = _BIAS + _ACROSS * np.log(across + _NO_DISTANCE)
        scores += _BESIDE * np.log(beside + _NO_DISTANCE)
        scores[0] = -np.inf
        return scores

    def distances(self) -> tuple[np.ndarray, np.ndarray]:
        """For the boundary before each frame, both [T]: the distance of the nearest pair of frames
        across it, and the largest step from frame to frame beside it."""
        step = float(np.median(np.diff(self.times))) if len(self.times) > 1 else REACH_SECONDS
        reach = max(2, math.ceil(REACH_SECONDS / step))
        total = len(self.samples)
        across, beside = np.ones(total), np.zeros(total)
        for start in range(0, total, _BLOCK):
            stop = min(total, start + _BLOCK)
            first, last = max(0, start - 2 * reach), min(total, stop + 2 * reach)
            rows = _rows(np.stack(self.samples[first:last]))
            inside = slice(start - first, stop - first)
            across[start:stop] = _nearest_across(rows, reach)[inside]
            beside[start:stop] = _largest_beside(rows, reach)[inside]
        return across, beside


def _rows(samples: np.ndarray) -> np.ndarray:
    """uint8 [T, height, width, 3] -> float32 [T, d]: the distance is the sum of differences."""
    pixels = samples.reshape(len(samples), -1).astype(np.float32) / 255
    grey = samples.mean(axis=3, dtype=np.float32).reshape(len(samples), -1) / 255
    spread = grey.std(axis=1, keepdims=True) + 0.02  # a black frame has none
    shapes = (grey - grey.mean(axis=1, keepdims=True)) / spread
    weighted = _PIXELS / pixels.shape[1] * pixels, shapes / shapes.shape[1]
    return np.concatenate(weighted, axis=1)


def _nearest_across(rows: np.ndarray, reach: int) -> np.ndarray:
    """The smallest distance of a row before and a row after each boundary, [T].

    `reach` rows on either side count; boundary s lies just before row s.
    """
    nearest = np.full(len(rows), np.inf)
    nearest[0] = 1.0
    for gap in range(1, min(2 * reach, len(rows))):
        distance = np.abs(rows[gap:] - rows[:-gap]).sum(axis=1)  # of rows i and i + gap
        for before in range(max(1, gap - reach + 1), min(gap, reach) + 1):
            pairs = nearest[before : before + len(distance)]  # of row i, for boundary i + before
            np.minimum(pairs, distance[: len(pairs)], out=pairs)
    return nearest


def _largest_beside(rows: np.ndarray, reach: int) -> np.ndarray:
    """The largest distance of successive rows near each boundary, without its own, [T]."""
    step = np.zeros(len(rows))
    step[1:] = np.abs(np.diff(rows, axis=0)).sum(axis=1)
    largest = np.zeros(len(rows))
    for offset in range(1, min(reach, len(rows) - 1) + 1):
        np.maximum(largest[offset:], step[:-offset], out=largest[offset:])
        np.maximum(largest[:-offset], step[offset:], out=largest[:-offset])
    return largest
