"""Scenes that went through a video file, as training sees many of them."""

import dataclasses
import itertools

import numpy as np
import pytest

from reellama.models.synthetic.assets.downloads import ASSETS
from reellama.models.synthetic.codec_augmentation import (
    AUGMENTATION_CODECS,
    reencode,
    render_through_codec,
)
from reellama.models.synthetic.dataset import CODEC_SHARE, SyntheticClips, SyntheticConfig
from reellama.models.synthetic.render import frame_times, render
from reellama.models.synthetic.scene import Scene

pytestmark = pytest.mark.numeric

CONFIG = SyntheticConfig(styles=("shapes",), style_weights=(1.0,), frames=8, fewest_frames=4)
STORIES = SyntheticClips(CONFIG, 96, ASSETS)


def a_scene(number: int = 0, name: str = "one") -> Scene:
    return STORIES.clip(number, name).scene


def away(shown: np.ndarray, drawn: np.ndarray) -> float:
    """Mean difference of pixels, in steps of brightness of 255."""
    return float(np.abs(shown.astype(int) - drawn.astype(int)).mean())


@pytest.mark.parametrize("codec", AUGMENTATION_CODECS)
def test_every_codec_gives_as_many_frames_as_it_took_and_nearly_the_same_if_it_may(
    codec: str,
) -> None:
    scene = a_scene(3)
    drawn = render(scene, frame_times(scene.duration, 24))
    shown = reencode(codec, drawn, bits=2.0)
    assert shown.shape == drawn.shape
    assert shown.dtype == np.uint8
    assert away(shown, drawn) < 6


@pytest.mark.parametrize("codec", AUGMENTATION_CODECS)
def test_fewer_bits_do_more_damage(codec: str) -> None:
    scene = a_scene(4)
    drawn = render(scene, frame_times(scene.duration, 24))
    damage = [away(reencode(codec, drawn, bits), drawn) for bits in (0.02, 2.0)]
    assert damage[0] > damage[1]


def test_what_stands_still_changes_where_bits_are_few() -> None:
    flat = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    shown = reencode("mpeg4", np.stack([flat] * 16), bits=0.1)
    steps = [away(one, other) for one, other in itertools.pairwise(shown)]
    assert max(steps) > 0.5, "a projector that never saw this takes it for a move of the camera"


@pytest.mark.parametrize("number", range(8))
def test_a_film_shows_the_scene_at_times_near_those_that_were_asked_for(number: int) -> None:
    scene = a_scene(number)
    wanted = frame_times(scene.duration, 8)
    shown, times = render_through_codec(np.random.default_rng(number), scene, wanted)
    assert len(shown) == len(times) <= 8
    assert (np.diff(times) > 0).all()
    assert np.abs(times[:, None] - wanted[None]).min(1).max() <= scene.duration / 8
    height, width = shown.shape[1:3]
    assert width / height == pytest.approx(scene.size[0] / scene.size[1], rel=0.02)
    drawn = render(dataclasses.replace(scene, size=(width, height)), times)
    assert away(shown, drawn) < away(shown, np.roll(drawn, width // 2, axis=2))


def test_the_same_numbers_make_the_same_film() -> None:
    scene = a_scene(5)
    one, other = (
        render_through_codec(np.random.default_rng(7), scene, frame_times(3.0, 8)) for _ in range(2)
    )
    assert np.array_equal(one[0], other[0])
    assert np.array_equal(one[1], other[1])


def test_some_of_the_training_clips_are_films_and_no_clip_for_validation_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[int] = []

    def counted(*given: object) -> tuple[np.ndarray, np.ndarray]:
        made.append(1)
        return render_through_codec(*given)  # type: ignore[arg-type]

    monkeypatch.setattr("reellama.models.synthetic.dataset.render_through_codec", counted)
    for number in range(24):
        sample = STORIES[number]
        assert len(sample["frames"]) == len(sample["times"])
    assert 0 < len(made) < 24, f"about {CODEC_SHARE:.0%}"
    made.clear()
    validation = SyntheticClips(CONFIG, 96, ASSETS, split="validation")
    for number in range(6):
        validation[number]
    assert not made


def test_a_scene_with_a_cut_can_be_filmed() -> None:
    scene = a_scene(2, "cut")
    assert scene.second_shot is not None
    shown, times = render_through_codec(
        np.random.default_rng(1), scene, frame_times(scene.duration, 8)
    )
    assert len(shown) == len(times)
