"""Detect hard cuts frame by frame.

    finder = CutFinder()
    with open_video("film.mp4") as video:
        for frame in video.frames_between(0, video.duration):
            finder.add(frame)
    for cut in finder.cuts():
        print(cut.time, cut.strength)

At a cut, all frames just before it differ from all frames just after it. So for each boundary
between frames the most similar pair across it counts: with motion that is the boundary's own two
frames, and at a flash of light the frames around the flash. There is a cut if even the most similar
pair differs by more than consecutive frames nearby. The distance is that of pixels plus that of
shapes, which are pixels without colour, brightness and contrast, as scenes may share their colours.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from reellama.pipeline.video.source import Frame, VideoError

SIDE = 32  # pixels on the longest side of a compared frame
REACH_SECONDS = 0.25  # frames within this time before and after a boundary are compared
MIN_STEP = 1 / 32  # seconds between compared frames; at higher frame rates some are skipped
MIN_CUT_SECONDS = 0.3  # least seconds between two cuts
_BLOCK = 512  # boundaries scored at once, which bounds the memory

# Log odds of a cut: a bias and the weights of two logarithms, of the distance of the nearest pair
# across the boundary and of the largest step beside it. A logistic regression on films joined of
# photographs, web videos, robots and drawn clips:
# `python -m benchmarks.cut_detection --data DIR --films 60 --fit`
_BIAS, _ACROSS, _BESIDE = 0.26, 7.83, -1.13
_PIXELS = 2.0  # weight of pixels (0 to 1) relative to shapes (standard deviation 1)
_EPSILON = 0.02  # added to distances before the logarithm


class Cut(NamedTuple):
    """A hard cut."""

    time: float  # seconds of the first frame after the cut
    strength: float  # log odds of the cut, above 0


class CutFinder:
    """Detects cuts between frames that are added in order."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.samples: list[np.ndarray] = []  # uint8 RGB [height, width, 3], up to SIDE pixels

    def add(self, frame: Frame) -> None:
        """Add the next frame; a frame that cannot be decoded is skipped."""
        if self.times and frame.time - self.times[-1] < MIN_STEP:
            return
        try:
            sample = frame.rgb(SIDE)
        except VideoError:
            return
        if self.samples and sample.shape != self.samples[0].shape:  # the video changes its size
            height, width = self.samples[0].shape[:2]
            sample = np.asarray(Image.fromarray(sample).resize((width, height)))
        self.times.append(frame.time)
        self.samples.append(sample)

    def cuts(self) -> list[Cut]:
        """The cuts between the frames added so far, ascending."""
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
        """Log odds of a cut just before each frame, float64 `[T]`; -inf for the first."""
        across, beside = self.distances()
        scores = _BIAS + _ACROSS * np.log(across + _EPSILON)
        scores += _BESIDE * np.log(beside + _EPSILON)
        scores[0] = -np.inf
        return scores

    def distances(self) -> tuple[np.ndarray, np.ndarray]:
        """Distances at the boundary before each frame, both float64 `[T]`.

        The first is that of the most similar pair across the boundary, the second the largest
        between consecutive frames near the boundary.
        """
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
    """Features of frames, whose L1 distance is the distance of the frames.

    uint8 `[T, height, width, 3]` -> float32 `[T, d]`.
    """
    pixels = samples.reshape(len(samples), -1).astype(np.float32) / 255
    grey = samples.mean(axis=3, dtype=np.float32).reshape(len(samples), -1) / 255
    spread = grey.std(axis=1, keepdims=True) + 0.02  # avoids division by 0 for a black frame
    shapes = (grey - grey.mean(axis=1, keepdims=True)) / spread
    weighted = _PIXELS / pixels.shape[1] * pixels, shapes / shapes.shape[1]
    return np.concatenate(weighted, axis=1)


def _nearest_across(rows: np.ndarray, reach: int) -> np.ndarray:
    """The smallest distance of a row before and a row after each boundary, `[T]`.

    Boundary s is just before row s; `reach` rows on either side are compared.
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
    """The largest distance of consecutive rows near each boundary, except across it, `[T]`."""
    step = np.zeros(len(rows))
    step[1:] = np.abs(np.diff(rows, axis=0)).sum(axis=1)
    largest = np.zeros(len(rows))
    for offset in range(1, min(reach, len(rows) - 1) + 1):
        np.maximum(largest[offset:], step[:-offset], out=largest[offset:])
        np.maximum(largest[:-offset], step[offset:], out=largest[:-offset])
    return largest
