"""Poolings of a video's tokens: laws that each of them keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from reellama.models.token_pooling.grid_pooling import PoolingError
from reellama.models.token_pooling.pool import POOLINGS, PooledTokens, pool

N_EMBD = 8


def video(
    frames: int = 6, rows: int = 3, columns: int = 4, *, seed: int = 0, change: float = 1.0
) -> np.ndarray:
    """Random tokens; each frame differs from the first by as much noise as `change` says."""
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(rows, columns, N_EMBD))
    noise = rng.normal(size=(frames, rows, columns, N_EMBD)) * change
    return (first + noise).astype(np.float32)


def pool_or_skip(features: np.ndarray, method: str, budget: int, **options: Any) -> PooledTokens:
    """Frames in full ask for room for one frame, in words; the others fit in any budget."""
    if method == "full" and budget < features[0, ..., 0].size:
        with pytest.raises(PoolingError, match="a frame in full has"):
            pool(features, method, budget, **options)
        assume(False)
    return pool(features, method, budget, **options)


sizes = st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 5))
methods = pytest.mark.parametrize("method", POOLINGS)


@methods
@given(
    size=sizes,
    seed=st.integers(0, 9),
    change=st.sampled_from([0.0, 1e-3, 1.0]),
    budget=st.integers(1, 240),
    groups=st.none() | st.integers(1, 12),
    grid=st.booleans(),
)
def test_the_budget_is_kept_and_so_is_the_order_in_time(
    method: str,
    size: tuple[int, int, int],
    seed: int,
    change: float,
    budget: int,
    groups: int | None,
    grid: bool,
) -> None:
    frames, rows, columns = size if grid else (size[0], 1, size[1] * size[2])
    features = video(frames, rows, columns, seed=seed, change=change)
    pooled = pool_or_skip(features, method, budget, groups=groups, grid=grid)
    assert pooled.tokens.dtype == np.float32 and np.isfinite(pooled.tokens).all()
    assert pooled.tokens.shape == (len(pooled.positions), N_EMBD)
    assert 0 < len(pooled.tokens) <= budget
    assert (np.diff(pooled.positions[:, 0]) >= 0).all()
    assert (pooled.positions >= 0).all()
    assert (pooled.positions <= np.array([frames, rows, columns]) - 1 + 1e-5).all()


@methods
@given(size=sizes, groups=st.none() | st.integers(1, 12), more=st.integers(0, 3))
def test_a_budget_that_holds_everything_returns_everything_as_it_is(
    method: str, size: tuple[int, int, int], groups: int | None, more: int
) -> None:
    features = video(*size)
    n = features[..., 0].size
    pooled = pool(features, method, n + more, groups=groups)
    assert pooled.tokens.tobytes() == features.tobytes()
    assert pooled.positions.tolist() == [list(place) for place in np.ndindex(*size)]


@methods
@given(
    frames=st.integers(1, 40),
    groups=st.integers(1, 40),
    budget=st.integers(12, 500),
    change=st.sampled_from([0.0, 1.0]),
)
def test_groups_hold_the_tokens_of_their_span_of_time(
    method: str, frames: int, groups: int, budget: int, change: float
) -> None:
    pooled = pool(video(frames, change=change), method, budget, groups=groups)
    assert pooled.group_sizes.min() > 0 and pooled.group_sizes.sum() == len(pooled.tokens)
    assert len(pooled.group_sizes) == len(pooled.group_frames) <= min(groups, frames)
    assert (np.diff(pooled.group_frames) > 0).all()
    group = np.repeat(np.arange(len(pooled.group_sizes)), pooled.group_sizes)
    begins = pooled.group_frames.astype(float)
    ends = np.append(begins[1:], frames)
    times = pooled.positions[:, 0]
    assert (times > begins[group] - 1).all() and (times < ends[group]).all()


@pytest.mark.parametrize("method", ["merge_similar", "mean_over_time"])
@given(frames=st.integers(2, 30), missing=st.integers(1, 12), grid=st.booleans())
@example(frames=2, missing=1, grid=True)
def test_a_still_video_pools_to_the_tokens_of_one_frame(
    method: str, frames: int, missing: int, grid: bool
) -> None:
    rows, columns = (3, 4) if grid else (1, 12)
    still = np.repeat(video(1, rows, columns), frames, axis=0)
    budget = max(12, 12 * frames - missing)
    pooled = pool(still, method, budget, grid=grid)
    np.testing.assert_allclose(pooled.tokens, still[0].reshape(12, N_EMBD), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pooled.positions[:, 0], (frames - 1) / 2, rtol=1e-6)
    assert pooled.positions[:, 1:].tolist() == [list(place) for place in np.ndindex(rows, columns)]


@given(cut=st.integers(1, 5), seed=st.integers(0, 20), size=st.integers(0, 11))
def test_equal_frames_merge_before_different_ones(cut: int, seed: int, size: int) -> None:
    """Of two scenes that stand still, one frame each remains, at its centre, before any loss."""
    scenes = video(2, seed=seed)
    features = np.repeat(scenes, [cut, 6 - cut], axis=0)
    pooled = pool(features, "merge_similar", 24 + size)
    np.testing.assert_allclose(pooled.tokens, scenes.reshape(24, -1), rtol=1e-5, atol=1e-6)
    centres = np.repeat([(cut - 1) / 2, (cut + 5) / 2], 12)
    np.testing.assert_allclose(pooled.positions[:, 0], centres)


@given(start=st.integers(0, 12), seed=st.integers(0, 20))
def test_merging_keeps_more_where_the_video_changes(start: int, seed: int) -> None:
    features = video(16, seed=seed, change=0.01)
    features[start : start + 4] = video(4, seed=seed + 100)
    times = pool(features, "merge_similar", 48, groups=2).positions[:, 0]
    changing = ((times > start - 1) & (times < start + 4)).sum()
    assert changing > 12  # its share of the time


@given(groups=st.integers(2, 8), seed=st.integers(0, 20), budget=st.integers(8, 95))
def test_tokens_of_different_groups_are_not_merged(groups: int, seed: int, budget: int) -> None:
    """A mark in the dimension of a frame's group is found in the tokens of that group alone."""
    features = np.zeros((8, 3, 4, 8 + N_EMBD), np.float32)
    group = np.arange(8) * groups // 8
    features[..., 8:] = video(8, seed=seed)
    features[..., :8] = np.eye(8)[group][:, None, None]
    starts = [frame for frame in range(8) if frame == 0 or group[frame] != group[frame - 1]]
    assume(pool(features, "full", 96, groups=groups).group_frames.tolist() == starts)
    pooled = pool(features, "merge_similar", budget, groups=groups)
    marks = np.repeat(np.arange(groups), pooled.group_sizes)
    np.testing.assert_allclose(pooled.tokens[:, :8], np.eye(8)[marks], atol=1e-6)


@given(frames=st.integers(2, 12), seed=st.integers(0, 20))
def test_a_merged_token_is_the_mean_of_all_that_it_stands_for(frames: int, seed: int) -> None:
    """However many steps lead to it: means are weighted by size."""
    features = video(frames, seed=seed)
    pooled = pool(features, "merge_similar", 1)
    np.testing.assert_allclose(pooled.tokens[0], features.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    assert pooled.positions[0].tolist() == pytest.approx([(frames - 1) / 2, 1, 1.5])


@given(frames=st.integers(2, 8), seed=st.integers(0, 20), budget=st.integers(12, 60))
def test_without_a_grid_only_tokens_of_one_index_are_averaged(
    frames: int, seed: int, budget: int
) -> None:
    """A token of index i carries a mark in dimension i, and no mean ever holds two marks."""
    features = np.zeros((frames, 1, 12, 12 + N_EMBD), np.float32)
    features[..., :12] = np.eye(12) * 3
    features[..., 12:] = video(frames, 1, 12, seed=seed)
    for method in POOLINGS:
        pooled = pool(features, method, budget, grid=False)
        assert ((pooled.tokens[:, :12] > 0).sum(1) == 1).all(), method
        marks = pooled.tokens[:, :12].argmax(1)
        np.testing.assert_array_equal(marks, pooled.positions[:, 2])


@given(size=sizes, budget=st.integers(1, 200), seed=st.integers(0, 9))
def test_pruning_fills_the_budget_with_tokens_as_they_are(
    size: tuple[int, int, int], budget: int, seed: int
) -> None:
    features = video(*size, seed=seed)
    pooled = pool(features, "prune_common", budget)
    assert len(pooled.tokens) == min(budget, features[..., 0].size)
    places = tuple(pooled.positions.astype(int).T)
    assert pooled.tokens.tobytes() == features[places].tobytes()
    assert len({tuple(place) for place in pooled.positions}) == len(pooled.tokens)


def test_pruning_keeps_what_is_unusual_in_a_frame_and_between_frames() -> None:
    features = 1 + video(6) * 0.05  # all tokens point more or less the same way
    features[2, 1, 3] *= -1
    assert pool(features, "prune_common", 1).positions.tolist() == [[2, 1, 3]]
    features[4, :, :, ::2] *= -1
    times = pool(features, "prune_common", 24).positions[:, 0]
    assert (times == 4).sum() > 24 / 6


def test_means_are_those_of_the_frames_and_cells_that_they_cover() -> None:
    features = video(4, 4, 4)
    pooled = pool(features, "adaptive_mean", 8, groups=2)
    blocks = features.reshape(2, 2, 2, 2, 2, 2, N_EMBD).mean((1, 3, 5))
    np.testing.assert_allclose(pooled.tokens, blocks.reshape(8, N_EMBD), rtol=1e-5, atol=1e-6)
    assert pooled.positions[0].tolist() == [0.5, 0.5, 0.5]
    assert pooled.positions[-1].tolist() == [2.5, 2.5, 2.5]
    assert pooled.group_sizes.tolist() == [4, 4] and pooled.group_frames.tolist() == [0, 2]


def test_slow_and_fast_streams_share_the_budget() -> None:
    pooled = pool(video(8), "slow_fast", 24)
    assert np.unique(pooled.positions[:, 0], return_counts=True)[1].tolist() == [1] * 4 + [13] + (
        [1] * 3
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": "median"}, "no pooling named 'median'; choose one of full, subsample"),
        ({"budget": 0}, "a budget of 1 token or more"),
        ({"groups": 0}, "1 group or more"),
        ({"features": video()[0]}, r"must be \[frames, rows, columns, n_embd\]"),
        ({"features": video()[:0]}, r"not \[0, 3, 4, 8\]"),
        ({"grid": False}, "with one row where they lie on no grid"),
        ({"features": video() * np.nan}, "not finite numbers"),
    ],
)
def test_what_cannot_be_pooled_is_said_in_a_line(change: dict, said: str) -> None:
    arguments = {"features": video(), "method": "merge_similar", "budget": 9, **change}
    with pytest.raises(PoolingError, match=said) as error:
        pool(**arguments)
    assert "\n" not in str(error.value)
