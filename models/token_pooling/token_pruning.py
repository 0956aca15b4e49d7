"""Pruning of common tokens: those similar to the rest of their frame and of the video."""

from __future__ import annotations

import numpy as np

# Widths of the Gaussian kernels: 1/8 to 2, since squared distances of unit vectors are 0 to 4.
_KERNEL_WIDTHS = 2.0 ** np.arange(-3, 2)
# Temperature of the softmax over frames; lower values make their shares of tokens more unequal.
_TEMPERATURE = 0.01


def prune_common(
    features: np.ndarray, budget: int, groups: int, grid: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Keep the tokens that are unlike their frame and unlike the video (VidCom2, Liu et al., 2025).

    A frame whose tokens are far from the mean of the video keeps more of them. Tokens are not
    changed.
    """
    frames, rows, columns, n_embd = features.shape
    vectors = unit(features).reshape(frames, rows * columns, n_embd)
    frame_means = vectors.mean(1)  # [frames, n_embd]
    in_video = commonness(vectors, frame_means.mean(0))  # [frames, rows * columns]
    in_frame = commonness(vectors, frame_means)
    shares = _frame_shares(-in_video.mean(1), rows * columns, budget)  # [frames]
    rank = np.argsort(np.argsort(in_video + in_frame, axis=1, kind="stable"), axis=1)
    kept = np.argwhere((rank < shares[:, None]).reshape(frames, rows, columns))
    return features[tuple(kept.T)], kept


def commonness(vectors: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """How near unit vectors `[..., n, n_embd]` are to a centre `[..., n_embd]`, as a sum of
    Gaussian kernels of several widths: `[..., n]`."""
    products = np.matmul(vectors, centre[..., None])[..., 0]
    distances = 1 - 2 * products + (centre**2).sum(-1)[..., None]
    return np.exp(-distances[..., None] / (2 * _KERNEL_WIDTHS)).sum(-1)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors `[..., n_embd]` scaled to length 1; zeros stay zeros."""
    lengths = np.sqrt(np.einsum("...d,...d->...", vectors, vectors))
    return vectors / np.maximum(lengths, np.finfo(vectors.dtype).tiny)[..., None]


def _frame_shares(uniqueness: np.ndarray, cells: int, budget: int) -> np.ndarray:
    """How many of its `cells` each frame keeps `[frames]`: `budget` in all, or all cells.

    uniqueness: of the frames, `[frames]`.
    """
    softmax = np.exp((uniqueness - uniqueness.max()) / _TEMPERATURE)
    weights = 1 + softmax / softmax.sum() - 1 / len(uniqueness)
    upto = np.rint(np.cumsum(weights) / weights.sum() * budget).astype(int)
    shares = np.minimum(np.diff(upto, prepend=0), cells)
    room = np.cumsum(cells - shares)  # what full frames cannot take goes to the first with room
    return shares + np.diff(np.minimum(room, budget - shares.sum()), prepend=0)
