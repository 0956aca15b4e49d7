"""Cuts are found where they are, to the frame; what moves, flashes or fades is no cut."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import skimage
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reellama.pipeline.long_video import hard_cuts
from reellama.pipeline.long_video.cut_detection import CutFinder
from reellama.pipeline.long_video.hard_cuts import find_hard_cuts
from reellama.pipeline.long_video.video_index import VideoIndex
from reellama.pipeline.video.clip import open_video
from reellama.pipeline.video.scene_detection import color_quantiles
from reellama.pipeline.video.source import Frame
from tests.helpers.film import HEIGHT, WIDTH, corners, steady, write_film

RATE = 10
EXAMPLE = [4.1, 6.5, 8.4]  # seconds of the cuts of a film of ten seconds


def same_light(cuts: Sequence[float]) -> Callable[[int], np.ndarray]:
    """A photograph over which the camera moves; at each cut it is turned, so colours stay."""
    photo = np.asarray(Image.fromarray(skimage.data.chelsea()).resize((240, 240))) // 2

    def draw(i: int) -> np.ndarray:
        view = np.rot90(photo, sum(i >= round(cut * RATE) for cut in cuts))
        left = abs(i % 160 - 80)
        return np.ascontiguousarray(view[60 : 60 + HEIGHT, left : left + WIDTH])

    return draw


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "cuts.mp4"
    return write_film(path, steady(10), draw=same_light(EXAMPLE))


def shown(picture: np.ndarray, max_side: int | None) -> np.ndarray:
    return picture


def index_of(path: Path, step: float = 0.5) -> VideoIndex:
    """What a timeline knows of a film, without a bundle's embeddings."""
    with open_video(path) as video:
        frames = list(video.frames_at(np.arange(step / 2, video.duration, step).tolist()))
        times = np.array([frame.time for frame in frames])
        colours = np.stack([color_quantiles(frame.rgb(64)) for frame in frames])
        cuts = find_hard_cuts(video, times, colours, lambda done, total: None)
        return VideoIndex(path, video.duration, times, colours, np.zeros((len(times), 0)), cuts)


def starts(index: VideoIndex, min_seconds: float = 1.0) -> list[float]:
    return [start for start, _ in index.scenes(99, min_seconds)]


def test_scenes_begin_at_cuts_that_leave_the_colours_as_they_are(example: Path) -> None:
    assert starts(index_of(example)) == pytest.approx([0, *EXAMPLE])


def test_scenes_are_no_shorter_than_was_asked_for(example: Path) -> None:
    assert starts(index_of(example), min_seconds=2.2) == pytest.approx([0, 4.1, 6.5])


def test_a_flash_and_a_moving_camera_are_no_cuts(tmp_path: Path) -> None:
    draw = same_light([])
    film = write_film(
        tmp_path / "flash.mp4",
        steady(6),
        draw=lambda i: 255 - (255 - draw(i)) // 5 if i in (30, 31) else draw(i),
    )
    assert starts(index_of(film)) == [0]


def test_a_fade_begins_a_scene_at_the_next_sample(tmp_path: Path) -> None:
    fade = np.clip((np.arange(60) - 25) / 8, 0, 1)
    film = write_film(
        tmp_path / "fade.mp4",
        steady(6),
        draw=lambda i: (corners() * (1 - fade[i]) + 90 * fade[i]).astype(np.uint8),
    )
    index = index_of(film)
    assert index.cuts is not None and len(index.cuts.times) == 0
    (_, begin, *_) = starts(index)
    assert 2.5 <= begin <= 3.8


def test_of_a_long_film_the_parts_that_differ_most_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hard_cuts, "DECODED_SECONDS", 6.0)
    draw = same_light([13.3])
    film = write_film(
        tmp_path / "long.mp4", steady(24), draw=lambda i: draw(i) + (90 if i >= 133 else 0)
    )
    index = index_of(film, step=2.0)
    assert index.cuts is not None
    assert np.diff(index.cuts.spans).sum() <= 6.0
    assert index.cuts.times == pytest.approx([13.3])
    assert starts(index) == pytest.approx([0, 13.3])


def test_cuts_of_a_film_with_few_frames_a_second_are_not_decoded(tmp_path: Path) -> None:
    film = write_film(tmp_path / "slow.mp4", steady(20, rate=1), rate=1, draw=corners)
    assert starts(index_of(film, step=1.0)) == [0]


def test_pictures_may_change_their_size_on_the_way() -> None:
    wide, tall = np.zeros((24, 32, 3), np.uint8), np.full((32, 24, 3), 200, np.uint8)
    finder = CutFinder()
    for i in range(10):
        finder.add(Frame(i / 10, partial(shown, wide if i < 5 else tall)))
    assert [cut.time for cut in finder.cuts()] == [0.5]


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(12, 30), min_size=1, max_size=6),
    rate=st.sampled_from([8, 25]),
    seed=st.integers(0, 99),
)
def test_pictures_that_have_nothing_in_common_are_cut_apart(
    lengths: list[int], rate: int, seed: int
) -> None:
    """And one picture with a little noise is not."""
    rng = np.random.default_rng(seed)
    finder = CutFinder()
    for length in lengths:
        rough = rng.integers(0, 200, (6, 8, 3)).repeat(4, 0).repeat(4, 1)
        for _ in range(length):
            look = (rough + rng.integers(0, 4, rough.shape)).astype(np.uint8)
            finder.add(Frame(len(finder.times) / rate, partial(shown, look)))
    expected = np.cumsum(lengths)[:-1] / rate
    assert [cut.time for cut in finder.cuts()] == pytest.approx(expected.tolist())
