"""Detect scenes by changes of colour, and choose frames that represent them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Two frames belong to different scenes if their colour quantiles differ by more than this share of
# the full range on average. Motion within a scene hardly changes the distribution of colours.
CUT_THRESHOLD = 0.1
# Levels at which the distribution of each colour channel is read.
_QUANTILES = np.linspace(0.0, 1.0, 17)
_SAMPLE_SIDE = 64  # pixels read along the longest side


def color_quantiles(rgb: np.ndarray) -> np.ndarray:
    """A descriptor of the colours of uint8 RGB `[height, width, 3]`: float32 `[51]`, 0 to 1.

    It has 17 quantiles of each channel. The mean difference of two descriptors is the earth mover's
    distance between their distributions, which unlike histograms varies smoothly with the light.
    """
    levels = np.quantile(rgb.reshape(-1, 3), _QUANTILES, axis=0)  # [17, 3]
    return (levels.ravel() / 255.0).astype(np.float32)


def changes(times: np.ndarray, frames: Sequence[np.ndarray]) -> list[float]:
    """Approximate times, in seconds, at which the scene changes.

    Consecutive scenes of the same colours count as one.

    Args:
        times: seconds of the frames, `[T]`.
        frames: T frames, uint8 RGB `[height, width, 3]`.
    """
    step = max(1, max(frames[0].shape) // _SAMPLE_SIDE)
    descriptors = np.stack([color_quantiles(frame[::step, ::step]) for frame in frames])
    change = np.abs(np.diff(descriptors, axis=0)).mean(axis=1)  # [T - 1]
    return [float(times[i] + times[i + 1]) / 2 for i in np.flatnonzero(change > CUT_THRESHOLD)]


def choose_frames(times: np.ndarray, descriptors: np.ndarray, n: int) -> list[float]:
    """Choose at most `n` times, ascending: one in each scene, and more in the longest scenes.

    If there are more than `n` scenes, only the `n` - 1 strongest cuts count.

    Args:
        times: seconds of the frames, `[T]`.
        descriptors: `color_quantiles` of the frames, `[T, D]`.
    """
    change = np.abs(np.diff(descriptors, axis=0)).mean(axis=1)  # [T - 1]
    cuts = np.flatnonzero(change > CUT_THRESHOLD)
    cuts = np.sort(cuts[np.argsort(-change[cuts], kind="stable")[: n - 1]]) + 1
    first = [0, *cuts.tolist()]
    length = np.diff([*first, len(times)])
    share = np.ones(len(first), dtype=int)
    for _ in range(min(n, len(times)) - len(first)):
        # The next frame goes to the scene whose frames are furthest apart.
        share[np.argmax(np.where(share < length, length / share, 0.0))] += 1
    return [
        float(times[start + i])
        for start, n_samples, n_frames in zip(first, length, share, strict=True)
        for i in spread_evenly(int(n_samples), int(n_frames))
    ]


def spread_evenly(length: int, n: int) -> list[int]:
    """At most `n` of `length` indices: the centres of `n` equal intervals, or all indices."""
    n = min(n, length)
    return [int((i + 0.5) * length / n) for i in range(n)]
