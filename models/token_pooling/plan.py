"""Plan how to pool a video to a budget of tokens: which pooling, how many frames and groups.

    plan = plan_pooling(256, FrameTokens(14, 14), frames=16, group_tokens=6)
    plan.method, plan.frames, plan.total
    pool(features, plan.method, plan.tokens, groups=plan.groups)

A budget counts cells of the KV cache: tokens, not positions. With M-RoPE, a frame in full takes
some 60 positions but thousands of cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from reellama.models.token_pooling.grid_pooling import (
    PoolingError,
    balanced_groups,
    largest_grid,
)
from reellama.models.token_pooling.options import AUTO
from reellama.models.token_pooling.pool import POOLINGS

# The pooling of `auto` if frames in full do not fit; the best one in benchmarks.pooling_quality.
AUTO_POOLING = "merge_similar"
# Fewest merged tokens of a group, if there are more than two groups. Every group repeats what
# stands still, and with fewer tokens it holds nothing else: benchmarks.pooling_quality --groups.
MERGED_GROUP_TOKENS = 40
# Poolings to a fixed grid (t, rows, columns). The others choose tokens by the video's content.
FIXED_GRID = ("full", "subsample", "mean_over_time", "adaptive_mean")


@dataclass(frozen=True)
class FrameTokens:
    """The shape of the tokens that a vision model makes of one frame; 1 x n if they lie on no
    grid."""

    rows: int
    columns: int
    grid: bool = True

    @property
    def count(self) -> int:
        """Number of tokens."""
        return self.rows * self.columns


@dataclass(frozen=True)
class PoolingPlan:
    """How to sample and pool a video.

    Attributes:
        method: a name in `POOLINGS`.
        frames: number of frames to encode: all but those that the pooling drops.
        groups: largest number of groups of tokens; each has a text before it.
        tokens: largest number of pooled tokens without the texts, which is the budget of `pool`.
        total: largest number of tokens with the texts; neither more than the budget nor than the
            context has left.
        notes: for users, such as "asked for 64 frames: 256 tokens hold 1 in full".
    """

    method: str
    frames: int
    groups: int
    tokens: int
    total: int
    notes: tuple[str, ...] = ()


def plan_pooling(
    budget: int,
    frame: FrameTokens,
    *,
    frames: int,
    group_tokens: int = 0,
    context_left: int | None = None,
    method: str = AUTO,
) -> PoolingPlan:
    """Plan how to pool a video.

    Args:
        budget: tokens for the video.
        frame: the tokens of one frame.
        frames: number of frames that were sampled.
        group_tokens: tokens around each group of frames: its time as text, begin and end tokens.
        context_left: tokens that still fit the context; None for no limit.
        method: a name in `POOLINGS`, or "auto", see `reellama.models.token_pooling.options`.

    Raises:
        PoolingError: the method is unknown, or the budget or the context is too small: for one
            token, or for one frame in full with the method "full".
    """
    if method != AUTO and method not in POOLINGS:
        raise PoolingError(
            f"no pooling named {method!r}; choose {AUTO} or one of {', '.join(POOLINGS)}"
        )
    room = budget if context_left is None else min(budget, context_left)
    if room <= group_tokens:
        where = "the budget is" if room == budget else "the context has room for"
        raise PoolingError(
            f"{where} {max(room, 0)} tokens, and a video needs {group_tokens + 1} or more; "
            "allow more tokens or a larger context"
        )
    max_full = room // (frame.count + group_tokens)
    if method == AUTO:
        method = "full" if frames <= max_full else AUTO_POOLING
    if method == "full" and not max_full:
        raise PoolingError(
            f"a frame in full has {frame.count + group_tokens} tokens, and there is room for "
            f"{room}; allow more tokens or choose another pooling"
        )
    if frames <= max_full or method == "full":
        return _full(method, frames, min(frames, max_full), frame, group_tokens, room)
    plan = _pooled(method, frames, frame, group_tokens, room)
    if room < budget:
        return replace(plan, notes=(f"the context has room for {room} of {budget} tokens",))
    return plan


def _full(
    method: str, requested: int, frames: int, frame: FrameTokens, group_tokens: int, room: int
) -> PoolingPlan:
    """A plan for `frames` of the requested frames in full."""
    notes = (f"asked for {requested} frames: {room} tokens hold {frames} in full",)
    return PoolingPlan(
        method,
        frames,
        groups=frames,
        tokens=frames * frame.count,
        total=frames * (frame.count + group_tokens),
        notes=notes if frames < requested else (),
    )


def _pooled(
    method: str, requested: int, frame: FrameTokens, group_tokens: int, room: int
) -> PoolingPlan:
    """A plan for fewer tokens than the requested frames have, `room` in all."""
    groups = 1
    if method != "mean_over_time":
        groups = balanced_groups(
            requested, frame.rows, frame.columns, room, group_tokens, grid=frame.grid
        )
    if method == "merge_similar":
        groups = min(groups, max(2, room // MERGED_GROUP_TOKENS))
    tokens = room - groups * group_tokens
    if method in FIXED_GRID:
        tokens = groups * math.prod(largest_grid(frame.rows, frame.columns, tokens // groups))
    tokens = min(tokens, requested * frame.count)
    return PoolingPlan(
        method,
        # `subsample` would drop the other frames, so they are not encoded.
        frames=groups if method == "subsample" else requested,
        groups=groups,
        tokens=tokens,
        total=tokens + groups * group_tokens,
    )
