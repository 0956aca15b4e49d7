"""Pool a video's tokens to a budget: float32 [frames, rows, columns, n_embd] -> [n, n_embd].

    pooled = pool(features, "merge_similar", budget=256, groups=8)
    pooled.tokens.shape     # (256, 2048)
    pooled.positions[0]     # t, y, x: the centre of the tokens that became the first one

Poolings need no training and work with the tokens of any model. To add one, write a function like
those of `grid_pooling`, and a line in `POOLINGS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from reellama.models.token_pooling.grid_pooling import (
    PoolingError,
    adaptive_mean,
    balanced_groups,
    full,
    group_of,
    mean_over_time,
    slow_fast,
    subsample,
)
from reellama.models.token_pooling.token_merging import merge_similar
from reellama.models.token_pooling.token_pruning import prune_common

# (features, budget, groups, grid) -> at most `budget` tokens `[n, n_embd]` in the order of time,
# and their positions `[n, 3]`. `groups` is the number of spans of time that the tokens will be
# divided into; it is at most `budget` and at most the number of frames. A pooling is called only if
# the budget is smaller than the number of tokens.
Pooling = Callable[[np.ndarray, int, int, bool], tuple[np.ndarray, np.ndarray]]

POOLINGS: dict[str, Pooling] = {
    "full": full,
    "subsample": subsample,
    "mean_over_time": mean_over_time,
    "adaptive_mean": adaptive_mean,
    "slow_fast": slow_fast,
    "merge_similar": merge_similar,
    "prune_common": prune_common,
}


@dataclass(frozen=True, eq=False)
class PooledTokens:
    """Pooled tokens in the order of time.

    Attributes:
        tokens: float32 `[n, n_embd]`.
        positions: float32 `[n, 3]`: t, y, x of the centre of the tokens that were pooled, in
            frames, rows and columns. (0, 0, 0) is the first token of the first frame.
        group_sizes: int `[groups]`, number of tokens in each group, never 0. They sum to n.
        group_frames: int `[groups]`, first frame of each group's span of time, ascending.
    """

    tokens: np.ndarray
    positions: np.ndarray
    group_sizes: np.ndarray
    group_frames: np.ndarray


def pool(
    features: np.ndarray,
    method: str,
    budget: int,
    *,
    groups: int | None = None,
    grid: bool = True,
) -> PooledTokens:
    """Pool features to at most `budget` tokens; a budget for all tokens leaves them unchanged.

    Args:
        features: float32 `[frames, rows, columns, n_embd]`, or `[frames, 1, tokens, n_embd]` for
            tokens that lie on no grid.
        method: a name in `POOLINGS`.
        budget: largest number of pooled tokens.
        groups: largest number of equal spans of time that the tokens are divided into, so that a
            text such as <0:12> can precede each; None to balance time and space. Spans without a
            token are left out.
        grid: whether tokens lie on a grid. Those of a resampler do not, and are never averaged
            within a frame.

    Raises:
        PoolingError: the method is unknown, the shape is wrong, budget or groups is less than 1, or
            a feature is not finite.
    """
    _check(features, method, budget, groups, grid)
    frames, rows, columns, n_embd = features.shape
    if groups is None:
        groups = balanced_groups(frames, rows, columns, budget, grid=grid)
    groups = min(groups, frames, budget)
    if budget >= frames * rows * columns:
        tokens = features.reshape(-1, n_embd)
        positions = np.argwhere(np.ones((frames, rows, columns), bool))
    else:
        tokens, positions = POOLINGS[method](features, budget, groups, grid)
    present, sizes = np.unique(group_of(positions[:, 0], groups, frames), return_counts=True)
    # The first frame whose middle is in the span: `present * frames / groups - 1/2`, rounded up.
    first = -((groups - 2 * present * frames) // (2 * groups))
    return PooledTokens(
        np.ascontiguousarray(tokens, np.float32), positions.astype(np.float32), sizes, first
    )


def _check(features: np.ndarray, method: str, budget: int, groups: int | None, grid: bool) -> None:
    """Raise PoolingError for arguments that `pool` cannot use."""
    if method not in POOLINGS:
        raise PoolingError(f"no pooling named {method!r}; choose one of {', '.join(POOLINGS)}")
    if features.ndim != 4 or not features.size or not (grid or features.shape[1] == 1):
        raise PoolingError(
            "tokens to pool must be [frames, rows, columns, n_embd], with one row where they lie "
            f"on no grid, not {list(features.shape)}"
        )
    if budget < 1 or (groups is not None and groups < 1):
        raise PoolingError("a pooling needs a budget of 1 token or more, and 1 group or more")
    if not np.isfinite(features).all():
        raise PoolingError(
            "the vision model's tokens are not finite numbers; its file is damaged, or its type "
            "does not hold them"
        )
