"""From a budget of tokens to a plan: how many frames, which pooling, which grid.

    plan = plan_pooling(256, FrameTokens(14, 14), duration=60, available=1500, group_tokens=6)
    plan.method, plan.frames, plan.grid, plan.total
    pool(features, plan.method, plan.tokens, groups=plan.groups)

A budget counts cells of the KV cache: tokens, not positions. With M-RoPE a frame in full moves the
position on by some 60 and fills thousands of cells.
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

# The pooling that `auto` takes where frames in full do not fit; why: benchmarks.pooling_quality.
AUTO_POOLING = "merge_similar"
# Frames that are looked at where nobody says how many: DEFAULT_FPS a second, within bounds. A
# visual tower takes up to a second for each of them on a CPU.
DEFAULT_FPS = 1.0
MIN_FRAMES, MAX_FRAMES = 8, 64
# Merged tokens that a group has at least, unless there are but two groups. What stands still is in
# each group again, and with fewer tokens nothing else is: benchmarks.pooling_quality --groups.
MERGED_GROUP_TOKENS = 40
# Poolings that make a fixed grid (t, rows, columns); of the others, the video decides.
FIXED_GRID = ("full", "subsample", "mean_over_time", "adaptive_mean")


@dataclass(frozen=True)
class FrameTokens:
    """The tokens that a vision model makes of one frame: a grid of them, or 1 x n without one."""

    rows: int
    columns: int
    grid: bool = True

    @property
    def count(self) -> int:
        """How many there are."""
        return self.rows * self.columns


@dataclass(frozen=True)
class PoolingPlan:
    """What to do with a video. `total` never exceeds the budget, nor what fits the context.

    method: a name in `POOLINGS`
    frames: how many to sample and to encode
    groups: the maximum of groups of tokens, with a text before each
    tokens: the maximum of pooled tokens, texts not counted: the budget of `pool`
    total:  the same with the texts
    grid:   (t, rows, columns) of the pooled tokens; None where the video decides
    notes:  what a person should know, e.g. "asked for 64 frames: 256 tokens hold 1 in full"
    """

    method: str
    frames: int
    groups: int
    tokens: int
    total: int
    grid: tuple[int, int, int] | None
    notes: tuple[str, ...] = ()


def plan_pooling(
    budget: int,
    frame: FrameTokens,
    *,
    available: int,
    duration: float = 0.0,
    group_tokens: int = 0,
    context_left: int | None = None,
    frames: int | None = None,
    fps: float | None = None,
    method: str = AUTO,
) -> PoolingPlan:
    """Plan for a video of `available` frames in `duration` seconds and a budget of tokens.

    frame:        the tokens of one frame.
    group_tokens: what stands around each group of frames: its time as text, begin and end tokens.
    context_left: tokens that still fit the context; None where that is no limit.
    frames, fps:  how many frames a person asks for; `frames` wins.
    method:       a name in `POOLINGS`, or "auto": frames in full where they fit, else what the
                  benchmark found best.

    Raises PoolingError where the budget, or the context, does not hold one token, or one frame of
    those that are asked for in full.
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
    wanted = _wanted_frames(available, duration, frames, fps)
    fit = room // (frame.count + group_tokens)
    if method == AUTO:
        method = "full" if wanted <= fit else AUTO_POOLING
    if method == "full" and not fit:
        raise PoolingError(
            f"a frame in full has {frame.count + group_tokens} tokens, and there is room for "
            f"{room}; allow more tokens or choose another pooling"
        )
    if wanted <= fit or method == "full":
        return _full(method, wanted, min(wanted, fit), frame, group_tokens, room)
    plan = _pooled(method, wanted, frame, group_tokens, room)
    if room < budget:
        return replace(plan, notes=(f"the context has room for {room} of {budget} tokens",))
    return plan


def _wanted_frames(available: int, duration: float, frames: int | None, fps: float | None) -> int:
    """How many frames to look at, before any budget: at least 1, at most those that there are."""
    if frames is None and fps is not None:
        frames = math.ceil(duration * fps)
    if frames is None:
        frames = max(MIN_FRAMES, min(MAX_FRAMES, math.ceil(duration * DEFAULT_FPS)))
    return max(1, min(frames, available))


def _full(
    method: str, wanted: int, frames: int, frame: FrameTokens, group_tokens: int, room: int
) -> PoolingPlan:
    """Frames in full: all that are wanted, or as many as there is room for."""
    notes = (f"asked for {wanted} frames: {room} tokens hold {frames} in full",)
    return PoolingPlan(
        method,
        frames,
        groups=frames,
        tokens=frames * frame.count,
        total=frames * (frame.count + group_tokens),
        grid=(frames, frame.rows, frame.columns),
        notes=notes if frames < wanted else (),
    )


def _pooled(
    method: str, wanted: int, frame: FrameTokens, group_tokens: int, room: int
) -> PoolingPlan:
    """Fewer tokens than the frames have."""
    groups = 1
    if method != "mean_over_time":
        groups = balanced_groups(
            wanted, frame.rows, frame.columns, room, group_tokens, grid=frame.grid
        )
    if method == "merge_similar":
        groups = min(groups, max(2, room // MERGED_GROUP_TOKENS))
    tokens, grid = room - groups * group_tokens, None
    if method in FIXED_GRID:
        grid = (groups, *largest_grid(frame.rows, frame.columns, tokens // groups))
        tokens = math.prod(grid)
    return PoolingPlan(
        method,
        # Frames that would not be looked at are not encoded.
        frames=groups if method == "subsample" else wanted,
        groups=groups,
        tokens=min(tokens, wanted * frame.count),
        total=min(tokens, wanted * frame.count) + groups * group_tokens,
        grid=grid,
    )
