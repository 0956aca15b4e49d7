"""Files whose timestamps begin late, leap, are negative or start again: all of the film is seen."""

from pathlib import Path

import numpy as np
import pytest

from reellama.pipeline.video.clip import Clip, open_video, read_frames
from tests.helpers.film import number, numbered, steady, write_film


def numbers(clip: Clip) -> list[int]:
    return [number(frame) for frame in clip.frames]


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings, of 4 and of 3 seconds, one after the other: frames 0 to 39 and 100 to 129."""
    folder = tmp_path_factory.mktemp("joined")
    first = write_film(folder / "first.ts", steady(4))
    second = write_film(folder / "second.ts", steady(3), draw=lambda i: numbered(100 + i))
    path = folder / "joined.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    return path


def test_joined_transport_streams_are_read_to_the_end(joined: Path):
    clip = read_frames(joined, frames=7)
    assert clip.duration == pytest.approx(7.0)
    assert numbers(clip) == [5, 15, 25, 35, 105, 115, 125]
    assert clip.times == pytest.approx([0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5])
    assert clip.notes == ()
    assert numbers(read_frames(joined, frames=99)) == [*range(40), *range(100, 130)]


def test_a_part_of_joined_streams_is_found(joined: Path):
    assert numbers(read_frames(joined, frames=99, start=3.8, end=4.2)) == [38, 39, 100, 101]
    assert numbers(read_frames(joined, frames=2, start=5.0, end=6.0)) == [112, 117]
    assert numbers(read_frames(joined, frames=9, sampling="keyframes", start=3)) == [
        *(30, 100, 110, 120)
    ]
    with open_video(joined) as video:  # forth and back
        for start, frame in ((6.0, 120), (1.0, 10), (4.5, 105)):
            assert number(next(video.frames_between(start, start + 0.1)).rgb(None)) == frame


def test_a_recording_that_starts_between_keyframes_begins_with_the_first_one(tmp_path: Path):
    whole = write_film(tmp_path / "whole.ts", steady(4), gop=20)
    packets = 188
    tables = whole.read_bytes()[: 3 * packets]
    path = tmp_path / "tail.ts"
    path.write_bytes(tables + whole.read_bytes()[20 * packets :])
    clip = read_frames(path, frames=5)
    assert clip.duration == pytest.approx(2.0)
    assert numbers(clip) == [22, 26, 30, 34, 38]
    assert clip.notes == ()


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts"])
def test_frames_are_spread_over_what_is_there_and_not_over_a_gap(tmp_path: Path, kind: str):
    times = [time if time < 2.0 else time + 600.0 for time in steady(4)]
    clip = read_frames(write_film(tmp_path / f"gap.{kind}", times), frames=16)
    assert len(clip.frames) == 16
    assert np.diff(numbers(clip)).max() <= 4
    assert clip.notes == ()
    if kind != "ts":  # a player shows frame 19 for ten minutes, and so says the time
        assert clip.times == pytest.approx([times[i] for i in numbers(clip)])
    scenes = read_frames(tmp_path / f"gap.{kind}", frames=16, sampling="scenes")
    assert np.diff(numbers(scenes)).max() <= 4


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts"])
def test_a_film_that_begins_after_its_sound_begins_at_its_first_frame(tmp_path: Path, kind: str):
    late = [time + 20.0 for time in steady(4)]
    clip = read_frames(write_film(tmp_path / f"late.{kind}", late, sound=30.0), frames=4)
    assert clip.duration == pytest.approx(4.0)
    assert numbers(clip) == [5, 15, 25, 35]
    assert clip.times == pytest.approx([0.5, 1.5, 2.5, 3.5])
    assert clip.notes == ()


def test_a_film_without_sound_that_begins_late_is_not_cut_off(tmp_path: Path):
    late = [time + 20.0 for time in steady(4)]
    assert read_frames(write_film(tmp_path / "late.mkv", late), frames=4).notes == ()


@pytest.mark.parametrize("kind", ["mkv", "webm", "ts", "flv"])
def test_negative_times_are_part_of_the_film(tmp_path: Path, kind: str):
    path = write_film(
        tmp_path / f"negative.{kind}",
        steady(5),
        codec="libvpx" if kind == "webm" else "libx264",
        muxer_options={"avoid_negative_ts": "disabled", "output_ts_offset": "-3"},
    )
    clip = read_frames(path, frames=5)
    assert clip.duration == pytest.approx(5.0)
    assert numbers(clip) == [5, 15, 25, 35, 45]
    assert numbers(read_frames(path, frames=99)) == list(range(50))
