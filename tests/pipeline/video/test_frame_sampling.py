"""Which frames come, and that the times that come with them are true."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reellama.pipeline.video.clip import read_frames
from reellama.pipeline.video.frame_sampling import interval_centers, thin_evenly
from reellama.pipeline.video.read_options import VideoReadOptions
from reellama.pipeline.video.scene_detection import choose_frames, color_quantiles, spread_evenly
from reellama.pipeline.video.source import VideoError
from tests.helpers.film import HEIGHT, WIDTH, number, steady, write_film

RATE = 10


@pytest.fixture(scope="module")
def ten_seconds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 numbered frames, a keyframe every second."""
    return write_film(tmp_path_factory.mktemp("film") / "ten.mp4", steady(10))


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two frames a second for 4 s, one frame that stays for 4 s, then 20 a second for 2 s."""
    times = [i / 2 for i in range(8)] + [4.0] + [8 + i / 20 for i in range(40)]
    return write_film(tmp_path_factory.mktemp("film") / "uneven.mp4", times, rate=20)


def frame_numbers(path: Path, **options) -> list[int]:
    return [number(frame) for frame in read_frames(path, **options).frames]


def test_uniform_takes_the_centres_of_equal_intervals(ten_seconds: Path):
    clip = read_frames(ten_seconds, frames=5)
    assert clip.duration == pytest.approx(10.0)
    assert clip.times == pytest.approx([1, 3, 5, 7, 9])
    assert [number(frame) for frame in clip.frames] == [10, 30, 50, 70, 90]
    assert clip.times.dtype == np.float64
    assert clip.frames[0].dtype == np.uint8
    assert clip.frames[0].shape == (HEIGHT, WIDTH, 3)
    assert clip.notes == ()


def test_the_first_frame_is_handed_on_while_others_are_read(ten_seconds: Path):
    happened: list[str] = []
    read_frames(
        ten_seconds,
        frames=3,
        progress=lambda done, total: happened.append(f"{done} of {total}"),
        on_first_frame=lambda frame: happened.append(f"picture {number(frame)}"),
    )
    assert happened == ["1 of 3", "picture 16", "2 of 3", "3 of 3"]


def test_fps_takes_frames_at_a_fixed_rate(ten_seconds: Path):
    clip = read_frames(ten_seconds, frames=100, sampling="fps", fps=2)
    assert clip.times == pytest.approx(np.arange(20) / 2)
    assert [number(frame) for frame in clip.frames] == list(range(0, 100, 5))
    assert frame_numbers(ten_seconds, frames=100, fps=2) == list(range(0, 100, 5))


def test_fps_that_gives_too_many_frames_spreads_them_over_the_video(ten_seconds: Path):
    clip = read_frames(ten_seconds, frames=5, fps=2)
    assert clip.times == pytest.approx([1, 3, 5, 7, 9])
    assert clip.notes == ("2 frames a second would be 20: took 5, evenly spread",)


def test_a_rate_alone_takes_as_many_frames_as_the_bundle_can_look_at(ten_seconds: Path):
    """Without it, or with a number beside it, the default and the number hold."""
    for options, n in (
        (VideoReadOptions(fps=4), 40),
        (VideoReadOptions(), 16),
        (VideoReadOptions(fps=4, frames=5), 5),
    ):
        read = options.with_defaults(frames=16, max_frames=256, max_side=64)
        assert len(read_frames(ten_seconds, read).frames) == n
    fixed = VideoReadOptions(fps=4).with_defaults(frames=16, max_frames=16, max_side=64)
    clip = read_frames(ten_seconds, fixed)
    assert len(clip.frames) == 16
    assert clip.notes == ("4 frames a second would be 40: took 16, evenly spread",)


def test_a_still_and_a_single_frame_are_read_larger(ten_seconds: Path, tmp_path: Path):
    still = tmp_path / "screen.png"
    Image.new("RGB", (400, 200), "red").save(still)
    options = VideoReadOptions().with_defaults(frames=8, max_side=40, still_side=100)
    assert read_frames(still, options).frames[0].shape == (50, 100, 3)
    assert max(read_frames(ten_seconds, options).frames[0].shape) == 40
    assert max(read_frames(ten_seconds, options, frames=1).frames[0].shape) > 40
    both = tmp_path / "both"
    both.mkdir()
    for name in ("1.png", "2.png"):
        Image.new("RGB", (400, 200), "red").save(both / name)
    assert max(read_frames(both, options).frames[0].shape) == 40


def test_keyframes_are_those_that_the_encoder_stored_whole(ten_seconds: Path):
    assert frame_numbers(ten_seconds, frames=10, sampling="keyframes") == list(range(0, 100, 10))
    assert frame_numbers(ten_seconds, frames=5, sampling="keyframes") == [10, 30, 50, 70, 90]
    few = read_frames(ten_seconds, frames=64, sampling="keyframes")
    assert len(few.frames) == 10
    assert few.notes == ("asked for 64 frames, there are 10 keyframes",)


def test_start_and_end_bound_what_is_seen(ten_seconds: Path):
    assert frame_numbers(ten_seconds, frames=4, start=2, end=4) == [22, 27, 32, 37]
    assert frame_numbers(ten_seconds, frames=2, sampling="keyframes", start=2.5, end=4.5) == [
        30,
        40,
    ]
    assert frame_numbers(ten_seconds, frames=9, fps=4, start=9) == [90, 92, 95, 97]
    late = read_frames(ten_seconds, frames=2, start=8, end=99)
    assert late.times == pytest.approx([8.5, 9.5])
    assert late.notes == ("the video ends at 10.0 s",)


def test_more_frames_than_the_file_has_gives_all_of_them(ten_seconds: Path):
    clip = read_frames(ten_seconds, frames=500)
    assert [number(frame) for frame in clip.frames] == list(range(100))
    assert clip.notes == ("asked for 500 frames, the file has 100",)
    part = read_frames(ten_seconds, frames=64, start=1, end=2)
    assert [number(frame) for frame in part.frames] == list(range(10, 20))
    assert part.notes == ("asked for 64 frames, this part has 10",)


def test_a_number_that_nobody_asked_for_is_not_missed(ten_seconds: Path, tmp_path: Path):
    short = VideoReadOptions(start=1, end=2).with_defaults(frames=64, max_side=64)
    for sampling in ("uniform", "scenes", "keyframes"):
        clip = read_frames(ten_seconds, short, sampling=sampling)
        assert clip.notes == () and len(clip.frames) == (1 if sampling == "keyframes" else 10)
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    folder = read_frames(tmp_path, VideoReadOptions(frames=3).with_defaults(frames=8, max_side=64))
    assert folder.notes == ("asked for 3 frames, the folder has 1",)


def test_a_variable_frame_rate_is_sampled_by_time(uneven: Path):
    assert frame_numbers(uneven, frames=2, start=0, end=4) == [2, 6]
    assert frame_numbers(uneven, frames=2, start=8, end=10) == [19, 39]
    # Centres 1, 3, 5, 7, 9 would show one frame twice, so those 4 s count as one interval:
    # of 1.5 s, since 6 s are left for the four others.
    clip = read_frames(uneven, frames=5)
    assert [number(frame) for frame in clip.frames] == [1, 4, 7, 8, 34]
    assert clip.times == pytest.approx([0.5, 2, 3.5, 4, 9.25])
    assert clip.notes == ()
    assert frame_numbers(uneven, frames=49) == list(range(49))


@settings(max_examples=25)
@given(stays=st.lists(st.sampled_from([1, 2, 5, 300]), min_size=2, max_size=12), data=st.data())
def test_whatever_stays_on_screen_as_many_frames_come_as_were_asked_for(
    tmp_path_factory: pytest.TempPathFactory, stays: list[int], data: st.DataObject
):
    path = tmp_path_factory.getbasetemp() / "stays.mp4"
    write_film(path, np.cumsum([0, *stays]) / RATE)
    n = data.draw(st.integers(1, len(stays)))
    clip = read_frames(path, frames=n, max_side=80)
    assert len({number(frame) for frame in clip.frames}) == n
    assert np.all(np.diff(clip.times) > 0)
    assert clip.notes == ()


def test_a_frame_that_is_still_on_screen_at_the_start_counts_from_there(uneven: Path):
    clip = read_frames(uneven, frames=4, start=5, end=7)
    assert [number(frame) for frame in clip.frames] == [8]
    assert clip.times == pytest.approx([5])


def coloured_scenes(cuts: list[int]):
    """Draws grey dust in another colour after each cut."""
    tints = np.random.default_rng(5).permutation(np.linspace(20, 230, 12)).astype(int)

    def draw(i: int) -> np.ndarray:
        scene = sum(i >= cut for cut in cuts)
        dust = np.random.default_rng(i).integers(0, 4, (HEIGHT, WIDTH, 3))
        colour = tints[[scene % 12, (scene * 5 + 3) % 12, (scene * 7 + 6) % 12]]
        return (dust + colour).astype(np.uint8)

    return draw


@pytest.mark.parametrize("gop", [250, 10])
def test_scenes_each_get_a_frame(tmp_path: Path, gop: int):
    cuts = [63, 70, 150, 155, 190]  # uniform sampling of 6 frames would miss the two short scenes
    film = tmp_path / "scenes.mp4"
    write_film(film, steady(20), draw=coloured_scenes(cuts), gop=gop)
    clip = read_frames(film, frames=6, sampling="scenes")
    assert [sum(time * RATE >= cut - 0.01 for cut in cuts) for time in clip.times] == list(range(6))
    more = read_frames(film, frames=9, sampling="scenes")
    scenes = [sum(time * RATE >= cut - 0.01 for cut in cuts) for time in more.times]
    assert sorted(set(scenes)) == list(range(6))
    assert len(scenes) == 9
    assert scenes.count(0) >= 2  # what is left goes to the long scenes
    assert scenes.count(2) >= 2


def test_a_single_scene_is_covered_evenly(ten_seconds: Path):
    times = read_frames(ten_seconds, frames=4, sampling="scenes").times
    assert np.all(np.diff(times) > 1.5)


def test_movement_is_no_cut():
    left, right = np.zeros((2, 60, 80, 3), np.uint8)
    left[20:40, :20] = right[20:40, 60:] = 255
    assert np.abs(color_quantiles(left) - color_quantiles(right)).max() < 1e-6


@settings(max_examples=25)
@given(
    n=st.integers(1, 40),
    span=st.tuples(st.floats(0, 9.9), st.floats(0.01, 10)),
    sampling=st.sampled_from(["uniform", "keyframes", "scenes", "fps"]),
)
def test_times_are_true_and_sorted_and_inside(ten_seconds: Path, n, span, sampling):
    start, length = span
    fps = 3.0 if sampling == "fps" else None
    end = start + length
    options = {"sampling": sampling, "fps": fps, "start": start, "end": end}
    clip = read_frames(ten_seconds, frames=n, max_side=80, **options)
    assert 1 <= len(clip.frames) == len(clip.times) <= n
    assert np.all(np.diff(clip.times) > 0)
    assert clip.times[0] >= start
    assert clip.times[-1] <= end
    shown = [int(time * RATE + 1e-6) for time in clip.times]
    assert [number(frame) for frame in clip.frames] == shown


@given(start=st.floats(0, 1e6), length=st.floats(1e-3, 1e6), n=st.integers(1, 300))
def test_centres_are_sorted_and_inside(start: float, length: float, n: int):
    times = interval_centers(start, start + length, n)
    assert len(times) == n
    assert times == sorted(times)
    assert start <= times[0]
    assert times[-1] <= start + length


@given(count=st.integers(0, 2000), n=st.integers(1, 50))
def test_thinning_is_even(count: int, n: int):
    kept = thin_evenly((float(i) for i in range(count)), n)
    assert len(kept) == min(n, count)
    gaps = np.diff(kept)
    assert np.all(gaps > 0)
    assert not len(gaps) or gaps.max() <= 2 * gaps.min() + count / (2 * n)


@given(length=st.integers(1, 400), n=st.integers(1, 400))
def test_spread_never_repeats(length: int, n: int):
    positions = spread_evenly(length, n)
    assert len(positions) == min(n, length)
    assert len(set(positions)) == len(positions)
    assert all(0 <= position < length for position in positions)


@given(scenes=st.lists(st.integers(1, 9), min_size=1, max_size=12), n=st.integers(1, 30))
def test_every_scene_is_chosen_from_before_any_gets_more(scenes: list[int], n: int):
    scene_of = np.repeat(np.arange(len(scenes)), scenes)
    descriptions = (scene_of % 2)[:, None].astype(np.float32)
    chosen = choose_frames(np.arange(len(scene_of), dtype=float), descriptions, n)
    assert len(chosen) == min(n, len(scene_of))
    assert chosen == sorted(set(chosen))
    covered = {int(scene_of[int(time)]) for time in chosen}
    if len(scenes) <= n:
        assert len(covered) == len(scenes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 0}, "cannot take 0 frames; ask for 1 or more"),
        ({"frames": -3}, "cannot take -3 frames"),
        ({"start": -1.0}, "start must be 0 seconds or more"),
        ({"start": float("nan")}, "start must be 0 seconds or more"),
        ({"start": 5.0, "end": 4.0}, r"end \(4.0 s\) must come after start \(5.0 s\)"),
        ({"end": 0.0}, "must come after start"),
        ({"sampling": "random"}, "no sampling named 'random'; choose one of uniform"),
        ({"sampling": "fps"}, "needs frames a second above 0"),
        ({"fps": -2.0}, "needs frames a second above 0"),
        ({"sampling": "scenes", "fps": 2.0}, "fps means nothing to 'scenes'"),
        ({"max_side": 0}, "a longest side of 0 pixels"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(options, message: str):
    with pytest.raises(VideoError, match=message):
        VideoReadOptions(**options)
