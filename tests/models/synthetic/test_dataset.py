"""Samples of synthetic clips: the same by number, with conversations about the clip."""

from __future__ import annotations

import numpy as np
import pytest

from reellama.models.prompt_format import multiple_choice
from reellama.models.synthetic.assets.downloads import ASSETS
from reellama.models.synthetic.assets.picture_pool import PicturePool
from reellama.models.synthetic.assets.pictures import load_pictures
from reellama.models.synthetic.dataset import (
    MAX_TURNS,
    SyntheticClips,
    SyntheticConfig,
    conversation,
)
from reellama.models.synthetic.scenarios.registry import SCENARIOS, random_clip
from reellama.models.training.batches import pad_samples

SHAPES = load_pictures(("shapes",))
PHOTO = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
POOL = PicturePool(SHAPES, [picture.kind for picture in SHAPES], [PHOTO])


@pytest.fixture(scope="module")
def clips() -> SyntheticClips:
    config = SyntheticConfig(styles=("shapes",), style_weights=(1.0,), frames=6, fewest_frames=3)
    return SyntheticClips(config, 48, ASSETS, photos=[PHOTO])


def test_samples_differ_by_number_and_never_by_time(clips: SyntheticClips) -> None:
    one, again, other = clips[5], clips[5], clips[6]
    assert np.array_equal(one["frames"], again["frames"])
    assert one["turns"] == again["turns"]
    assert one["slots"] != other["slots"] or one["turns"] != other["turns"]


def test_samples_stand_side_by_side_with_a_mask(clips: SyntheticClips) -> None:
    samples = [clips[number] for number in range(8)]
    frames, times, mask = pad_samples(samples)
    assert frames.shape[0] == 8 and frames.shape[2:] == (3, 48, 48)
    assert mask.sum(1).tolist() == [len(sample["times"]) for sample in samples]
    assert times.shape == mask.shape


def test_a_conversation_is_of_questions_of_the_clip(clips: SyntheticClips) -> None:
    for number in range(30):
        clip = clips.clip(number)
        sentences = {asked.sentence for asked in clip.questions} | {clip.caption}
        for question, answer in conversation(clip, np.random.default_rng(number)):
            if "\nChoose one: " in question:
                assert answer in question.partition("\nChoose one: ")[2]
            else:
                assert answer in sentences


def test_a_whole_conversation_asks_all_that_a_clip_has_to_ask(clips: SyntheticClips) -> None:
    for number in range(30):
        clip = clips.clip(number)
        turns = conversation(clip, np.random.default_rng(number), p_describe_first=0.0, whole=True)
        asked = [question.partition("\nChoose one: ")[0] for question, _ in turns]
        wanted = [question.question for question in clip.questions]
        found = sum(question in wanted for question in asked)
        assert found == min(len(wanted), MAX_TURNS - 1)


def test_choices_are_named_in_one_line() -> None:
    asked = multiple_choice("Which way?", ["left", "right"])
    assert asked == "Which way?\nChoose one: left; right."


def test_a_sample_of_a_still_has_one_frame_and_never_comes_twice() -> None:
    config = SyntheticConfig(styles=("shapes",), style_weights=(1.0,))
    stills = SyntheticClips(config, 48, ASSETS, photos=[PHOTO]).as_stills()
    samples = [stills[number] for number in range(20)]
    assert all(sample["frames"].shape == (1, 3, 48, 48) for sample in samples)
    assert len({sample["frames"].numpy().tobytes() for sample in samples}) == 20
    assert all(sample["turns"] for sample in samples)


def test_scenarios_of_more_weight_are_drawn_more_often() -> None:
    rng = np.random.default_rng(0)
    names = [
        random_clip(rng, POOL, sampling_weights={"shuffle": 100.0}).scenario for _ in range(40)
    ]
    assert names.count("shuffle") > 30
    silent = {name: 0.0 for name in SCENARIOS if name != "race"}
    assert {random_clip(rng, POOL, sampling_weights=silent).scenario for _ in range(5)} == {"race"}


def test_stills_of_more_weight_are_drawn_more_often() -> None:
    config = SyntheticConfig(styles=("shapes",), style_weights=(1.0,))
    clips = SyntheticClips(config, 48, ASSETS, photos=[PHOTO])
    stills = clips.as_stills().with_sampling_weights({"copies": 100.0})
    names = [stills.clip(number).scenario for number in range(40)]
    assert stills.stills and names.count("copies") > 30
