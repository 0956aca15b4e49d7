"""Clips searched by a caption each: ranks, and figures of ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.bundle import Bundle
from reellama.pipeline.evaluation.captioned_clips import read_captioned
from reellama.pipeline.evaluation.tasks.video_search import caption_ranks, rank_figures
from reellama.pipeline.long_video.video_index import VideoIndex, index_video, search


def index(rows: np.ndarray) -> VideoIndex:
    times = np.arange(len(rows), dtype=float)
    return VideoIndex(Path("x"), 1.0, times, np.zeros((len(rows), 51), np.float32), rows)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=50))
def test_recall_grows_with_how_many_are_shown(ranks: list[int]) -> None:
    found = rank_figures(np.array(ranks))
    assert 0 <= found["R@1"].value <= found["R@10"].value <= 1
    assert min(ranks) <= found["median rank"].value <= max(ranks)
    if found["median rank"].value <= 10:
        assert found["R@10"].value >= 0.5


@given(st.integers(2, 12), st.integers(0, 99))
def test_ranks_go_from_one_to_the_number_of_clips(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    clips = [index(rng.normal(size=(int(rng.integers(1, 4)), 5))) for _ in range(n)]
    ranks = caption_ranks(clips, rng.normal(size=(n, 5)))
    assert ranks.min() >= 1 and ranks.max() <= n


def test_what_fits_best_is_first_and_a_video_is_as_good_as_its_best_frame() -> None:
    clips = [index(np.roll(np.eye(6), -i, axis=0)[:2][::-1]) for i in range(6)]
    assert caption_ranks(clips, np.eye(6) + 0.5 * np.roll(np.eye(6), 1, axis=1)).tolist() == [1] * 6


def test_where_all_clips_are_alike_the_rank_is_the_middle() -> None:
    clips = [index(np.ones((1, 3))) for _ in range(9)]
    assert caption_ranks(clips, np.ones((9, 3))).tolist() == [5] * 9


def test_ranks_are_those_of_the_search_that_people_use(captioned: Path, small_bundle: Path) -> None:
    bundle = Bundle.load(small_bundle)
    clips = read_captioned(captioned)[::3]
    words = [clip.captions[0] for clip in clips]
    indices = [index_video(clip.video, bundle, cache=None) for clip in clips]
    ranks = caption_ranks(indices, bundle.tower.embed_texts(words))
    for clip, text, rank in zip(clips, words, ranks, strict=True):
        order = [match.path for match in search(indices, text, bundle, n=len(clips))]
        assert order.index(clip.video) + 1 == rank


def test_a_tower_that_cannot_read_is_said() -> None:
    with pytest.raises(ReellamaError, match="no text side"):
        caption_ranks([index(np.zeros((2, 0)))], np.zeros((1, 4)))
