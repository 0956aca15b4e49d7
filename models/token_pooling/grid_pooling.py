"""Poolings by a fixed pattern: fewer frames, fewer tokens a frame, means over time and space.

Each is a `reellama.models.token_pooling.pool.Pooling`. A frame's tokens are averaged with their
neighbours only where they lie on a grid: the tokens of a resampler (MiniCPM-V, LLaVA-UHD) have no
neighbours, and an even choice of them is kept instead.
"""

from __future__ import annotations

import numpy as np

from reellama.gguf_tools.errors import ReellamaError

# The share of the budget that the slow stream of `slow_fast` gets.
SLOW_SHARE = 0.5


class PoolingError(ReellamaError):
    """Tokens that cannot be pooled, or a budget that holds nothing."""


def full(
    features: np.ndarray, budget: int, groups: int, grid: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Frames in full, as many as the budget holds, evenly spread: what llama.cpp's mtmd does.

    Raises PoolingError where not one frame fits.
    """
    cells = features.shape[1] * features.shape[2]
    if budget < cells:
        raise PoolingError(
            f"a frame in full has {cells} tokens, and there is room for {budget}; "
            "allow more tokens or choose another pooling"
        )
    return subsample(features, budget, budget // cells, grid)


def subsample(
    features: np.ndarray, budget: int, groups: int, grid: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Fewer and smaller frames: `groups` of them, evenly spread, each averaged to a smaller grid.

    The baseline: VTC-Bench (2025) shows that plain downsampling beats many token compressors.
    """
    kept = spread_evenly(len(features), min(groups, budget))
    return _smaller_frames(features[kept], kept, budget, grid)


def mean_over_time(
    features: np.ndarray, budget: int, groups: int, grid: bool
) -> tuple[np.ndarray, np.ndarray]:
    """One frame: the mean of all. The spatial tokens of Video-ChatGPT (Maaz et al., 2023)."""
    return adaptive_mean(features, budget, 1, grid)


def adaptive_mean(
    features: np.ndarray, budget: int, groups: int, grid: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Adaptive average pooling to `groups` x rows x columns (PLLaVA, Xu et al., 2024)."""
    frames = len(features)
    over_time = averaging(frames, min(groups, frames, budget))
    if len(over_time) < frames:
        features = np.tensordot(over_time, features, 1)
    return _smaller_frames(features, over_time @ np.arange(frames), budget, grid)


def slow_fast(
    features: np.ndarray, budget: int, groups: int, grid: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Few frames in detail, and many coarsely (SlowFast-LLaVA, Xu et al., 2024).

    The slow stream takes its share of the budget for frames in full, or for one smaller frame. The
    fast one takes every frame, or as many as it holds tokens. In the order of time, a frame's slow
    tokens come before its fast ones.
    """
    frames, rows, columns, _ = features.shape
    slow = max(1, round(budget * SLOW_SHARE))
    streams = [subsample(features, slow, max(1, slow // (rows * columns)), grid)]
    if budget > slow:
        streams.append(subsample(features, budget - slow, frames, grid))
    tokens, positions = (np.concatenate(part) for part in zip(*streams, strict=True))
    order = np.argsort(positions[:, 0], kind="stable")
    return tokens[order], positions[order]


def _smaller_frames(
    features: np.ndarray, times: np.ndarray, budget: int, grid: bool
) -> tuple[np.ndarray, np.ndarray]:
    """All frames, each with the same part of the budget: tokens and their positions (t, y, x)."""
    frames, rows, columns, n_embd = features.shape
    height, width = largest_grid(rows, columns, budget // frames)
    flat = features.reshape(frames, rows * columns, n_embd)
    places = np.argwhere(np.ones((rows, columns), bool))
    if (height, width) != (rows, columns):
        if grid:
            over_cells = np.kron(averaging(rows, height), averaging(columns, width))
            flat, places = np.matmul(over_cells, flat), over_cells @ places
        else:
            kept = spread_evenly(columns, width)
            flat, places = flat[:, kept], places[kept]
    positions = np.column_stack([np.repeat(times, len(places)), np.tile(places, (frames, 1))])
    return flat.reshape(-1, n_embd), positions


def averaging(n: int, bins: int) -> np.ndarray:
    """The weights of adaptive average pooling, float32 `[bins, n]`, rows with the sum 1.

    As torch's `AdaptiveAvgPool`: neighbouring bins overlap where n is not a multiple.
    """
    start = np.arange(bins) * n // bins
    end = -(-np.arange(1, bins + 1) * n // bins)
    index = np.arange(n)
    inside = (index >= start[:, None]) & (index < end[:, None])
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)


def spread_evenly(n: int, count: int) -> np.ndarray:
    """The indices in the middle of `count` equal parts of `n`; all where there are fewer."""
    count = min(n, count)
    return (2 * np.arange(count) + 1) * n // (2 * count)


def largest_grid(rows: int, columns: int, cells: int) -> tuple[int, int]:
    """The grid of at most `cells` that keeps most of both sides, and then has most cells."""
    grids = [(height, min(columns, cells // height)) for height in range(1, min(rows, cells) + 1)]
    return max(grids, key=lambda it: (min(it[0] / rows, it[1] / columns), it[0] * it[1]))


def group_of(times: np.ndarray, groups: int, frames: int) -> np.ndarray:
    """In which of `groups` equal spans of a video of `frames` a time lies, in frames: int `[n]`.

    The span of a frame is the one that holds its middle.
    """
    return ((2 * times + 1) * groups / (2 * frames)).astype(int).clip(0, groups - 1)


def balanced_groups(
    frames: int,
    rows: int,
    columns: int,
    budget: int,
    group_tokens: int = 0,
    *,
    grid: bool = True,
) -> int:
    """How many frames to keep, so that time and space lose equal shares to the budget.

    The share of the frames and the share of a frame's cells that remain are balanced: the smaller
    one is as large as it can be. Each frame takes `group_tokens` more. Without a grid, a frame
    keeps all of its tokens where it can. 0 where the budget holds nothing.
    """
    most = min(frames, budget // (group_tokens + 1))
    if not grid:
        return max(min(most, 1), min(most, budget // (columns + group_tokens)))

    def balance(groups: int) -> tuple[float, int]:
        height, width = largest_grid(rows, columns, budget // groups - group_tokens)
        cells = height * width
        return min(groups / frames, cells / (rows * columns)), groups * cells

    return max(range(1, most + 1), key=balance, default=0)
