"""A long film: it is sought, memory stays flat, and stopping leaves nothing open."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from av.video.frame import VideoFrame

from benchmarks.seek import lengthen
from reellama.pipeline.video import container
from reellama.pipeline.video.clip import opened, read_frames
from reellama.pipeline.video.frame_sampling import select_frames
from reellama.pipeline.video.read_options import SamplingMode, VideoReadOptions
from tests.helpers.film import number, steady, write_film

pytestmark = pytest.mark.measures

PEAK_MEMORY = """
import resource, sys
from reellama.pipeline.video.clip import read_frames
read_frames(sys.argv[1], frames=8, sampling=sys.argv[2], max_side=64)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.fixture(scope="module")
def minutes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Films of 1, 2 and 60 minutes, 10 frames a second and a keyframe every 5 s."""
    folder = tmp_path_factory.mktemp("long")
    minute = write_film(folder / "1.mp4", steady(60), gop=50, rate=10)
    for n in (2, 60):
        lengthen(minute, folder / f"{n}.mp4", n)
    return {n: folder / f"{n}.mp4" for n in (1, 2, 60)}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The times of all frames that the decoder gave."""
    times: list[float] = []
    frames = container.Container.frames

    def counted(self):
        for time, frame in frames(self):
            times.append(time)
            yield time, frame

    monkeypatch.setattr(container.Container, "frames", counted)
    return times


def test_a_long_film_is_sought_and_not_decoded_whole(minutes: dict[int, Path], decoded):
    clip = read_frames(minutes[60], frames=12)  # of 36,000 frames
    assert clip.duration == pytest.approx(3600, abs=1)
    assert clip.times == pytest.approx([300 * i + 150 for i in range(12)], abs=0.2)
    assert [number(f) for f in clip.frames] == [round(t % 60 * 10) for t in clip.times]
    assert len(decoded) <= 12 * 52


def test_what_is_close_is_decoded_through_and_only_once(minutes: dict[int, Path], decoded):
    read_frames(minutes[1], frames=24, start=20, end=24.9)  # all between two keyframes
    assert len(decoded) <= 51


def test_scenes_of_a_long_film_are_looked_for_at_keyframes(minutes: dict[int, Path], decoded):
    read_frames(minutes[60], frames=4, sampling="scenes")
    assert len(decoded) < 64 * 4 + 200


@pytest.mark.parametrize("sampling", ["uniform", "keyframes", "scenes"])
def test_memory_does_not_grow_with_length(minutes: dict[int, Path], sampling: str):
    peaks = []
    for path in (minutes[2], minutes[60]):
        command = [sys.executable, "-c", PEAK_MEMORY, str(path), sampling]
        peaks.append(int(subprocess.check_output(command, cwd=Path(__file__).parents[3])))
    unit = 1024 if sys.platform == "darwin" else 1
    # FFmpeg's own index of an hour takes a few MiB; the decoded hour would take a GiB.
    assert peaks[1] - peaks[0] < 24 * 1024 * unit


def test_frames_stream_with_progress_and_notes(minutes: dict[int, Path]):
    steps: list[tuple[float, ...]] = []
    options = VideoReadOptions(frames=3, end=90)
    with opened(minutes[1]) as source:
        stream = select_frames(source, options, lambda *step: steps.append(step))
        time, frame = next(stream)
        assert time == pytest.approx(10)
        assert number(frame) == 100
        assert steps == [(1, 3)]
        assert len(list(stream)) == 2
        assert steps[-1] == (3, 3)
        assert source.notes == ["the video ends at 60.0 s"]


def test_progress_through_scenes_counts_up_to_the_end(minutes: dict[int, Path]):
    steps: list[tuple[float, ...]] = []
    read_frames(minutes[1], frames=4, sampling="scenes", progress=lambda *step: steps.append(step))
    assert steps == sorted(steps)
    assert len(steps) > 4
    assert steps[-1][0] == steps[-1][1]


def open_files() -> list[str]:
    return sorted(os.listdir("/dev/fd"))


def test_a_video_that_is_left_early_is_closed(minutes: dict[int, Path]):
    before = open_files()
    with opened(minutes[60]) as source:
        next(select_frames(source, VideoReadOptions(frames=5)))
        assert open_files() != before
    assert open_files() == before


@pytest.mark.parametrize("sampling", ["uniform", "scenes"])
def test_ctrl_c_leaves_nothing_open(minutes: dict[int, Path], sampling: SamplingMode):
    def interrupt(done: float, total: float) -> None:
        raise KeyboardInterrupt

    before = open_files()
    with pytest.raises(KeyboardInterrupt):
        read_frames(minutes[1], frames=4, sampling=sampling, progress=interrupt)
    assert open_files() == before


def test_frames_that_were_read_leave_no_threads_and_no_pictures(tmp_path: Path):
    path = write_film(tmp_path / "film.mp4", steady(2))
    read_frames(path, frames=2)
    threads = psutil.Process().num_threads()
    gc.collect()
    gc.disable()  # what waits for garbage collection is kept for long
    try:
        for _ in range(3):
            read_frames(path, frames=10)
        assert psutil.Process().num_threads() <= threads
        kept = [each for each in gc.get_objects() if isinstance(each, VideoFrame)]
        assert len(kept) <= 3
    finally:
        gc.enable()
