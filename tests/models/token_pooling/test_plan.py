"""Plans for a budget of tokens: kept for any video, any vision model and any wish."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from reellama.models.token_pooling.grid_pooling import PoolingError
from reellama.models.token_pooling.options import AUTO
from reellama.models.token_pooling.plan import (
    FIXED_GRID,
    FrameTokens,
    PoolingPlan,
    plan_pooling,
)
from reellama.models.token_pooling.pool import POOLINGS, pool

grids = st.builds(FrameTokens, st.integers(1, 30), st.integers(1, 30))
resamplers = st.builds(FrameTokens, st.just(1), st.integers(1, 100), st.just(False))
wishes = st.fixed_dictionaries(
    {
        "group_tokens": st.integers(0, 20),
        "context_left": st.none() | st.integers(-5, 5000),
        "frames": st.integers(1, 500),
    }
)


def plan_or_skip(budget: int, frame: FrameTokens, method: str, **wishes: Any) -> PoolingPlan:
    """A plan; where there is none, the message must be true."""
    left = wishes["context_left"]
    room = budget if left is None else min(budget, left)
    needed = (frame.count if method == "full" else 1) + wishes["group_tokens"]
    if room < needed:
        with pytest.raises(PoolingError, match="allow more tokens"):
            plan_pooling(budget, frame, method=method, **wishes)
        assume(False)
    return plan_pooling(budget, frame, method=method, **wishes)


@pytest.mark.parametrize("method", [AUTO, *POOLINGS])
@given(budget=st.integers(-1, 2000), frame=grids | resamplers, wishes=wishes)
def test_no_plan_exceeds_the_budget_or_the_context(
    method: str, budget: int, frame: FrameTokens, wishes: dict
) -> None:
    plan = plan_or_skip(budget, frame, method, **wishes)
    assert plan.method in POOLINGS and method in (AUTO, plan.method)
    assert plan.total == plan.tokens + plan.groups * wishes["group_tokens"] <= budget
    assert wishes["context_left"] is None or plan.total <= wishes["context_left"]
    assert 1 <= plan.groups <= plan.frames <= wishes["frames"]
    assert 1 <= plan.tokens <= plan.frames * frame.count


@pytest.mark.parametrize("method", [AUTO, *POOLINGS])
@given(
    budget=st.integers(1, 300),
    frame=st.builds(FrameTokens, st.integers(1, 6), st.integers(1, 6))
    | st.builds(FrameTokens, st.just(1), st.integers(1, 20), st.just(False)),
    frames=st.integers(1, 20),
    group_tokens=st.integers(0, 8),
)
def test_pooling_by_a_plan_gives_what_the_plan_says(
    method: str, budget: int, frame: FrameTokens, frames: int, group_tokens: int
) -> None:
    wishes = {"frames": frames, "group_tokens": group_tokens, "context_left": None}
    plan = plan_or_skip(budget, frame, method, **wishes)
    rng = np.random.default_rng(budget)
    features = rng.normal(size=(plan.frames, frame.rows, frame.columns, 4)).astype(np.float32)
    pooled = pool(features, plan.method, plan.tokens, groups=plan.groups, grid=frame.grid)
    assert len(pooled.tokens) + group_tokens * len(pooled.group_sizes) <= plan.total <= budget
    if plan.method in FIXED_GRID:
        assert len(pooled.tokens) == plan.tokens
        assert len(pooled.group_sizes) == plan.groups


def test_frames_that_fit_stay_in_full() -> None:
    plan = plan_pooling(900, FrameTokens(7, 7), frames=10, group_tokens=5)
    assert plan == PoolingPlan("full", 10, 10, 490, 540)


def test_merged_tokens_stand_in_groups_that_hold_more_than_what_stands_still() -> None:
    frame = FrameTokens(14, 14)
    plans = [
        plan_pooling(budget, frame, frames=60, group_tokens=6, method="merge_similar")
        for budget in (64, 128, 256)
    ]
    assert [(plan.groups, plan.total) for plan in plans] == [(2, 64), (3, 128), (6, 256)]


def test_fewer_and_smaller_frames_are_not_encoded_in_vain() -> None:
    plan = plan_pooling(256, FrameTokens(14, 14), frames=60, method="subsample")
    assert plan.frames == plan.groups < 60


def test_frames_in_full_that_do_not_fit_are_fewer_and_it_says_so() -> None:
    plan = plan_pooling(500, FrameTokens(14, 14), frames=8, group_tokens=6, method="full")
    assert (plan.frames, plan.total) == (2, 404)
    assert plan.notes == ("asked for 8 frames: 500 tokens hold 2 in full",)


@pytest.mark.parametrize(
    ("budget", "wishes", "said"),
    [
        (6, {}, "the budget is 6 tokens, and a video needs 7 or more"),
        (0, {}, "the budget is 0 tokens"),
        (256, {"context_left": 4}, "the context has room for 4 tokens"),
        (100, {"method": "full"}, "a frame in full has 202 tokens, and there is room for 100"),
        (256, {"method": "magic"}, "no pooling named 'magic'; choose auto or one of full"),
    ],
)
def test_what_cannot_be_planned_is_said_in_a_line(budget: int, wishes: dict, said: str) -> None:
    with pytest.raises(PoolingError, match=said) as error:
        plan_pooling(budget, FrameTokens(14, 14), frames=60, group_tokens=6, **wishes)
    assert "\n" not in str(error.value)
