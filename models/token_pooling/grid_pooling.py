"""Poolings by a fixed pattern: fewer frames, fewer tokens a frame, means over time and space.

Each is a `reellama.models.token_pooling.pool.Pooling`. Within a frame, tokens are averaged only if
they lie on a grid. The tokens of a resampler (MiniCPM-V, LLaVA-UHD) do not, so an evenly spread
part of them is kept instead.
"""

from __future__ import annotations

import numpy as np

from reellama.gguf_tools.errors import ReellamaError

SLOW_SHARE = 0.5  # share of the budget for the slow stream of `slow_fast`


class PoolingError(ReellamaError):
    """Tokens that cannot be pooled, or a budget that is too small."""


def full(
    features: np.ndarray, budget: int, groups: int, grid: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Evenly spread frames in full, as many as the budget holds. llama.cpp's mtmd does so.

    Raises PoolingError if no frame fits.
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
    frames = spread_evenly(len(features), min(groups, budget))
    return _smaller_frames(features[frames], frames, budget, grid)


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
    over_time = averaging(frames, min(groups, frames, budget))  # [groups, frames]
    if len(over_time) < frames:
        features = np.tensordot(over_time, features, 1)
    return _smaller_frames(features, over_time @ np.arange(frames), budget, grid)


def slow_fast(
    features: np.ndarray, budget: int, groups: int, grid: bool
) -> tuple[np.ndarray, np.ndarray]:
    """A few detailed frames and many coarse ones (SlowFast-LLaVA, Xu et al., 2024).

    The slow stream spends `SLOW_SHARE` of the budget on frames in full, or on one smaller frame.
    The fast stream spends the rest on all frames, or on as many as there are tokens left. Tokens
    are in the order of time; a frame's slow tokens come before its fast ones.
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
    """All frames, each reduced to the same number of tokens: tokens and positions (t, y, x).

    features `[frames, rows, columns, n_embd]`; times: the t of each frame.
    """
    frames, rows, columns, n_embd = features.shape
    height, width = largest_grid(rows, columns, budget // frames)
    flat = features.reshape(frames, rows * columns, n_embd)
    places = np.argwhere(np.ones((rows, columns), bool))  # [rows * columns, 2]: y, x
    if (height, width) != (rows, columns):
        if grid:
            # [height * width, rows * columns]
            over_cells = np.kron(averaging(rows, height), averaging(columns, width))
            flat, places = np.matmul(over_cells, flat), over_cells @ places
        else:
            tokens = spread_evenly(columns, width)
            flat, places = flat[:, tokens], places[tokens]
    positions = np.column_stack([np.repeat(times, len(places)), np.tile(places, (frames, 1))])
    return flat.reshape(-1, n_embd), positions


def averaging(n: int, bins: int) -> np.ndarray:
    """The weights of adaptive average pooling, float32 `[bins, n]`; each row sums to 1.

    As in torch's `AdaptiveAvgPool`, neighbouring bins overlap if n is not a multiple of `bins`.
    """
    start = np.arange(bins) * n // bins
    end = -(-np.arange(1, bins + 1) * n // bins)
    index = np.arange(n)
    inside = (index >= start[:, None]) & (index < end[:, None])
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)


def spread_evenly(n: int, count: int) -> np.ndarray:
    """The indices in the middle of `count` equal parts of `range(n)`; all if n <= count."""
    count = min(n, count)
    return (2 * np.arange(count) + 1) * n // (2 * count)


def largest_grid(rows: int, columns: int, cells: int) -> tuple[int, int]:
    """The (height, width) of at most `cells` cells for a grid of `rows` x `columns`.

    The smaller of the two shares height / rows and width / columns is as large as possible; ties
    are broken by the number of cells.
    """
    grids = [(height, min(columns, cells // height)) for height in range(1, min(rows, cells) + 1)]
    return max(grids, key=lambda hw: (min(hw[0] / rows, hw[1] / columns), hw[0] * hw[1]))


def group_of(times: np.ndarray, groups: int, frames: int) -> np.ndarray:
    """The index of the group that each of `times [n]`, in frames, belongs to: int `[n]`.

    The groups are equal spans of a video of `frames`. A frame belongs to the span of its middle.
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
    """How many frames to keep, so that time and space are reduced by similar factors.

    The smaller of two shares is as large as possible: that of the frames which are kept, and that
    of the cells which a frame keeps. Without a grid, frames keep all of their tokens if the budget
    allows it.

    Args:
        frames, rows, columns: of the video.
        budget: tokens in all.
        group_tokens: further tokens that each frame costs.
        grid: whether tokens lie on a grid.

    Returns:
        The number of frames; 0 if the budget is too small for one token.
    """
    max_groups = min(frames, budget // (group_tokens + 1))
    if not grid:
        return max(min(max_groups, 1), min(max_groups, budget // (columns + group_tokens)))

    def balance(groups: int) -> tuple[float, int]:
        height, width = largest_grid(rows, columns, budget // groups - group_tokens)
        cells = height * width
        return min(groups / frames, cells / (rows * columns)), groups * cells

    return max(range(1, max_groups + 1), key=balance, default=0)
