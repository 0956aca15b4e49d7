"""Scenes: where the picture changes for good, and which moments stand for each scene."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Two frames belong to different scenes when their colours differ by more than this share of the
# full range on average. Movement within a scene hardly moves the distribution of colours; a cut
# does.
CUT_THRESHOLD = 0.1
# Levels at which the distribution of each colour channel is read.
_QUANTILES = np.linspace(0.0, 1.0, 17)
_SAMPLE_SIDE = 64  # pixels on the longest side whose colours are read


def color_quantiles(rgb: np.ndarray) -> np.ndarray:
    """The distribution of colours of `rgb` [height, width, 3] as float32 [51], from 0 to 1.

    These are quantiles of each channel, so the mean difference of two descriptors is the earth
    mover's distance between the distributions: no bins that a slight change of light could cross.
    """
    levels = np.quantile(rgb.reshape(-1, 3), _QUANTILES, axis=0)  # [17, 3]
    return (levels.ravel() / 255.0).astype(np.float32)


def changes(times: np.ndarray, frames: Sequence[np.ndarray]) -> list[float]:
    """Seconds, about, at which `frames` [height, width, 3] of `times` [T] change their scene.

    Of a few frames only changes of colour tell: scenes of the same colours count as one.
    """
    step = max(1, max(frames[0].shape) // _SAMPLE_SIDE)
    descriptors = np.stack([color_quantiles(frame[::step, ::step]) for frame in frames])
    change = np.abs(np.diff(descriptors, axis=0)).mean(axis=1)  # [T - 1]
    return [float(times[i] + times[i + 1]) / 2 for i in np.flatnonzero(change > CUT_THRESHOLD)]


def choose_frames(times: np.ndarray, descriptors: np.ndarray, n: int) -> list[float]:
    """At most `n` of `times` [T], ascending: one of each scene, the rest from the longest scenes.

    descriptors: [T, D], each from `color_quantiles`. Of more than `n` scenes, those between the
    `n` - 1 strongest cuts remain.
    """
    change = np.abs(np.diff(descriptors, axis=0)).mean(axis=1)  # [T - 1]
    cuts = np.flatnonzero(change > CUT_THRESHOLD)
    cuts = np.sort(cuts[np.argsort(-change[cuts], kind="stable")[: n - 1]]) + 1
    first = [0, *cuts.tolist()]
    length = np.diff([*first, len(times)])
    share = np.ones(len(first), dtype=int)
    for _ in range(min(n, len(times)) - len(first)):
        # The scene whose frames lie furthest apart gets the next one.
        share[np.argmax(np.where(share < length, length / share, 0.0))] += 1
    return [
        float(times[start + i])
        for start, n_samples, n_frames in zip(first, length, share, strict=True)
        for i in spread_evenly(int(n_samples), int(n_frames))
    ]


def spread_evenly(length: int, n: int) -> list[int]:
    """At most `n` of `length` positions: the centres of `n` equal stretches, or all of them."""
    n = min(n, length)
    return [int((i + 0.5) * length / n) for i in range(n)]
