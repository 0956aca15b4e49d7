"""Captions that say what the others say come first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reellama.models.training.footage.caption_consensus import CaptionConsensus

VIDEOS = [
    ["a dog runs on grass", "the dog runs", "two friends at home"],
    ["a man sings a song", "a man sings"],
    ["a cat sleeps on a bed"],
]


def test_the_odd_one_out_comes_last() -> None:
    assert CaptionConsensus(VIDEOS).ranked(VIDEOS[0])[-1] == "two friends at home"


def test_what_all_videos_say_makes_no_captions_alike() -> None:
    videos = [
        ["a man is here", "a man is red", "a dog is red"],
        ["a man is blue"],
        ["a man is old"],
    ]
    assert CaptionConsensus(videos).ranked(videos[0])[-1] == "a man is here"


@given(st.lists(st.text("abc ", max_size=12), min_size=1, max_size=6))
def test_ranking_keeps_every_caption(captions: list[str]) -> None:
    assert sorted(CaptionConsensus([captions]).ranked(captions)) == sorted(captions)
