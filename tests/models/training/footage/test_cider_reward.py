"""CIDEr-D of captions."""

from __future__ import annotations

import pytest

from reellama.models.training.footage.cider_reward import CiderReward

VIDEOS = [
    ["a dog runs on green grass", "the brown dog runs", "two friends sit at home"],
    ["a man sings a slow song", "a man sings on a stage"],
    ["a cat sleeps on a bed", "the cat lies on a bed and sleeps"],
    ["a dog and a cat run home"],
]
SAID = ["a dog runs on grass", "a man sings a song", "a dog sleeps on a bed", "cat cat cat"]


def test_the_score_is_that_of_pycocoevalcap() -> None:
    """Cider-D there; document frequencies are of the same videos."""
    from pycocoevalcap.cider.cider import Cider

    references = dict(enumerate(VIDEOS))
    _, expected = Cider().compute_score(references, {n: [text] for n, text in enumerate(SAID)})
    reward = CiderReward(VIDEOS)
    for said, known, score in zip(SAID, VIDEOS, expected, strict=True):
        assert reward.scores([said], known)[0] == pytest.approx(score, abs=1e-6)


def test_a_caption_that_breaks_off_is_worth_less() -> None:
    whole = [[f"{text}." for text in captions] for captions in VIDEOS]
    finished, broken_off = CiderReward(whole).scores(
        ["A man sings a slow song.", "A man sings a slow song"], whole[1]
    )
    assert finished > broken_off
