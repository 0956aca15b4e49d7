"""Captions from the clips that look most alike, which a model that sees must beat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reellama.pipeline.evaluation.captioned_clips import CaptionedClip, read_captioned
from reellama.pipeline.evaluation.neighbour_captions import (
    CaptionSimilarity,
    imagenet_trunk,
    neighbour_captions,
    trunk_features,
)
from tests.pipeline.evaluation.conftest import CAPTIONS

GROUPS = [captions.split(",") for captions in CAPTIONS.values()]
SIMILARITY = CaptionSimilarity(GROUPS)
captions = st.sampled_from([text for texts in GROUPS for text in texts])


def product(a: str, b: str) -> float:
    one, other = SIMILARITY.vector(a), SIMILARITY.vector(b)
    return sum(weight * other.get(gram, 0) for gram, weight in one.items())


@given(captions, captions)
def test_similarity_is_symmetric_and_highest_to_itself(a: str, b: str) -> None:
    assert product(a, b) == pytest.approx(product(b, a))
    assert 0 <= product(a, b) <= product(a, a) + 1e-9 <= 1 + 2e-9


@given(st.lists(captions, min_size=1, max_size=12))
def test_the_consensus_is_the_caption_most_like_all(texts: list[str]) -> None:
    chosen = SIMILARITY.consensus(texts)
    best = max(sum(product(text, other) for other in texts) for text in texts)
    assert sum(product(chosen, other) for other in texts) == pytest.approx(best)


def test_what_most_say_wins() -> None:
    texts = ["a rocket at night", "a cat looks up", "a cat looks at it", "the cat looks up"]
    assert SIMILARITY.consensus(texts) == "a cat looks up"


def test_parts_of_a_photograph_find_each_other(captioned: Path, tmp_path: Path) -> None:
    clips = read_captioned(captioned)
    known, asked = clips[::2], clips[1::2]
    tower = imagenet_trunk()
    train, features = (trunk_features(each, tower, cache=tmp_path) for each in (known, asked))
    assert np.linalg.norm(features, axis=1) == pytest.approx(1, abs=1e-5)
    said = neighbour_captions(features, known, train, CaptionSimilarity(GROUPS), 1)
    right = [text in clip.captions for text, clip in zip(said, known, strict=True)]
    assert sum(right) >= len(right) - 1
    # Of all clips as neighbours there is one consensus.
    assert len(set(neighbour_captions(features, known, train, SIMILARITY, len(known)))) == 1
    assert np.array_equal(trunk_features(asked, tower, cache=tmp_path), features)


def test_a_clip_that_cannot_be_read_is_a_row_of_zeros(captioned: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    clips = [CaptionedClip(broken, ("x",)), read_captioned(captioned)[0]]
    rows = trunk_features(clips, imagenet_trunk(), cache=None)
    assert not rows[0].any() and rows[1].any()
