"""What counts as a right description of a drawn clip."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reellama.models.synthetic.assets.pictures import Picture
from reellama.models.synthetic.rendered_clips import RenderedClips, RenderedConfig
from reellama.models.synthetic.scene import MOTIONS, Actor
from reellama.models.synthetic.scene_captions import scene_caption
from reellama.pipeline.evaluation.accuracy import Accuracy
from reellama.pipeline.evaluation.tasks.description_scoring import (
    DescriptionVerdict,
    accuracies,
    judge_description,
)


def actor(kind: str, motion: str) -> Actor:
    return Actor(Picture(kind, "test", np.zeros((1, 1, 4), np.uint8)), motion, 0, 0, 1)


def test_every_true_caption_is_right() -> None:
    config = RenderedConfig(styles=("shapes",), style_weights=(1.0,), p_two=0.5)
    clips = RenderedClips(config)
    for number in range(50):
        scene = clips.clip("test", number).scene
        verdict = judge_description(scene_caption(scene), scene.actors)
        two = True if len(scene.actors) == 2 else None
        assert verdict == DescriptionVerdict(True, True, two, two)


@pytest.mark.parametrize("motion", MOTIONS)
def test_another_motion_is_wrong(motion: str) -> None:
    wrong = MOTIONS[(MOTIONS.index(motion) + 1) % len(MOTIONS)]
    assert judge_description(f"A dog {wrong}.", [actor("dog", motion)]) == DescriptionVerdict(
        False, True
    )


def test_motions_that_contain_each_other_are_told_apart() -> None:
    assert not judge_description("A dog disappears.", [actor("dog", "appears")]).motion


def test_a_part_of_a_word_is_not_the_word() -> None:
    assert not judge_description("A hotdog spins.", [actor("dog", "spins")]).picture


def test_names_and_motions_must_belong_together() -> None:
    actors = [actor("dog", "spins"), actor("cat", "grows")]
    swapped = judge_description("A cat grows and a dog spins.", actors)
    assert swapped == DescriptionVerdict(False, False, False, False)


def test_silence_is_wrong() -> None:
    assert judge_description("", [actor("dog", "spins")]) == DescriptionVerdict(False, False)


def test_clips_of_one_and_of_two_are_counted_apart() -> None:
    found = accuracies(
        [
            DescriptionVerdict(True, False),
            DescriptionVerdict(True, True),
            DescriptionVerdict(False, True, False, True),
        ]
    )
    assert found["motion"] == Accuracy(2, 2)
    assert found["picture"] == Accuracy(1, 2)
    assert found["main_motion_of_two"] == Accuracy(0, 1)
    assert found["second_picture_of_two"] == Accuracy(1, 1)


@given(of=st.integers(1, 2000), data=st.data())
def test_the_interval_holds_the_share(of: int, data: st.DataObject) -> None:
    share = Accuracy(data.draw(st.integers(0, of)), of)
    low, high = share.interval()
    assert -1e-9 <= low <= share.value + 1e-9 and share.value - 1e-9 <= high <= 1 + 1e-9
