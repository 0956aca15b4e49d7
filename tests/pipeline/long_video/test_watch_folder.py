"""A folder whose videos each get a sidecar, whatever happens to the workers."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.long_video.timeline import Timeline, TimelineScene
from reellama.pipeline.long_video.watch_folder import (
    DIED_MESSAGE,
    MAX_TRIES,
    WatchedFolder,
    sidecar,
)


def described(path: Path) -> Timeline:
    return Timeline(path, 2.0, (TimelineScene(0, 2, 1, f"This is {path.name}."),), "All.")


def failing(path: Path) -> Timeline:
    raise ReellamaError(f"{path}: cannot be read")


@pytest.fixture
def folder(tmp_path: Path) -> WatchedFolder:
    """Three files that are called videos, copied long ago."""
    for name in ("a.mp4", "b.mkv", "c.MOV", "notes.txt", ".hidden.mp4"):
        (tmp_path / name).write_bytes(b"x" * 100)
    return WatchedFolder(tmp_path, settled=0)


def states(folder: WatchedFolder) -> dict[str, str]:
    return {entry.path.name: entry.state for entry in folder.entries()}


def test_every_video_gets_a_json_and_an_srt(folder: WatchedFolder) -> None:
    assert [path.name for path in folder.waiting()] == ["a.mp4", "b.mkv", "c.MOV"]
    for path in list(folder.waiting()):
        assert folder.process(path, described)
    assert set(states(folder).values()) == {"done"}
    data = json.loads((folder.root / "a.mp4.json").read_text())
    assert data["scenes"][0]["text"] == "This is a.mp4." and data["path"] == "a.mp4"
    assert "This is a.mp4." in (folder.root / "a.mp4.srt").read_text()
    assert list(folder.waiting()) == []


def test_subtitles_that_somebody_made_stay(folder: WatchedFolder) -> None:
    path = folder.root / "a.mp4"
    subtitles = folder.root / "a.mp4.srt"
    subtitles.write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n")
    assert folder.process(path, described)
    assert states(folder)["a.mp4"] == "done"
    assert "Hello" in subtitles.read_text()


def test_a_name_that_is_not_utf_8_gets_sidecars_too(folder: WatchedFolder) -> None:
    path = folder.root / os.fsdecode(b"caf\xe9.mp4")
    path.write_bytes(b"x" * 100)
    assert folder.process(path, described)
    assert states(folder)[path.name] == "done"
    data = json.loads((folder.root / f"{path.name}.json").read_text(encoding="utf-8"))
    assert data["path"] == path.name


def test_a_file_that_changed_is_done_again(folder: WatchedFolder) -> None:
    path = folder.root / "a.mp4"
    folder.process(path, described)
    path.write_bytes(b"y" * 200)
    assert states(folder)["a.mp4"] == "new"
    assert folder.process(path, described)


def test_a_file_that_is_still_copied_waits(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    folder = WatchedFolder(tmp_path, settled=60)
    assert states(folder) == {"a.mp4": "copying"}
    assert list(folder.waiting()) == []
    assert not folder.process(tmp_path / "a.mp4", described)


def test_a_file_that_changes_meanwhile_gets_no_sidecar(folder: WatchedFolder) -> None:
    def changing(path: Path) -> Timeline:
        path.write_bytes(b"more" * 100)
        return described(path)

    assert not folder.process(folder.root / "a.mp4", changing)
    assert not sidecar(folder.root / "a.mp4", "json").exists()


def test_failures_are_remembered_with_their_reason_and_wait_longer(folder: WatchedFolder) -> None:
    path = folder.root / "a.mp4"
    waits = []
    for tries in range(1, MAX_TRIES + 1):
        assert not folder.process(path, failing)
        failure = folder.failure(path)
        assert failure and failure.tries == tries and "cannot be read" in failure.error
        waits.append(failure.next_try - time.time())
        assert path not in list(folder.waiting())
    assert waits == sorted(waits) and waits[0] > 5
    assert states(folder)["a.mp4"] == "given up"
    path.write_bytes(b"another file")
    assert folder.failure(path) is None and states(folder)["a.mp4"] == "new"


def test_failures_of_one_name_in_two_folders_are_remembered_apart(tmp_path: Path) -> None:
    """Cameras name the first video on every card alike."""
    paths = [tmp_path / name / "MOV1.mp4" for name in "ab"]
    for size, path in enumerate(paths, 100):
        path.parent.mkdir()
        path.write_bytes(b"x" * size)
    folder = WatchedFolder(tmp_path, recursive=True, settled=0)
    for path in paths:
        assert not folder.process(path, failing)
    assert [failure and failure.tries for failure in map(folder.failure, paths)] == [1, 1]
    assert list(folder.waiting()) == []


def test_a_later_success_clears_the_record(folder: WatchedFolder) -> None:
    path = folder.root / "a.mp4"
    folder.process(path, failing)
    assert folder.process(path, described)
    assert folder.failure(path) is None


def test_a_file_that_kills_its_worker_is_given_up_in_the_end(folder: WatchedFolder) -> None:
    path = folder.root / "a.mp4"
    code = (
        "import os; from pathlib import Path\n"
        "from reellama.pipeline.long_video.watch_folder import WatchedFolder\n"
        f"WatchedFolder(Path({str(folder.root)!r}), settled=0).process("
        f"Path({str(path)!r}), lambda path: os.kill(os.getpid(), 9))"
    )
    for tries in range(1, 5):
        assert subprocess.run([sys.executable, "-c", code]).returncode == -9
        failure = folder.failure(path)
        assert failure and (failure.tries, failure.error) == (tries, DIED_MESSAGE)
    assert path not in list(folder.waiting())


def test_ctrl_c_is_no_failure(folder: WatchedFolder) -> None:
    def interrupted(path: Path) -> Timeline:
        raise KeyboardInterrupt

    path = folder.root / "a.mp4"
    with pytest.raises(KeyboardInterrupt):
        folder.process(path, interrupted)
    assert states(folder)["a.mp4"] == "new"


def test_another_worker_does_not_do_the_same(folder: WatchedFolder) -> None:
    path = folder.root / "a.mp4"

    def while_working(claimed: Path) -> Timeline:
        assert states(folder)["a.mp4"] == "working"
        assert not folder.process(claimed, described)
        return described(claimed)

    assert folder.process(path, while_working)
    assert not list(folder.state_folder.glob("lock-*"))


def test_a_folder_that_is_not_there_is_named(reellama: Callable, tmp_path: Path) -> None:
    result = reellama("watch", tmp_path / "nothing")
    assert result.status == 1 and "is not a folder" in result.err


def test_the_command_does_what_is_there_and_says_how_far_it_is(
    reellama: Callable, square_video: Path, tmp_path: Path
) -> None:
    shutil.copy(square_video, tmp_path / "good.mp4")
    (tmp_path / "bad.mp4").write_text("not a video")
    result = reellama("watch", tmp_path, "--once", "--settled", "0", "--threads", "1")
    assert result.status == 1, result.err  # bad.mp4 failed
    said = [line for line in result.err.splitlines() if "bad.mp4" in line]
    assert said and all(line.count("bad.mp4") == 1 for line in said)
    assert json.loads((tmp_path / "good.mp4.json").read_text())["scenes"]
    status = reellama("watch", tmp_path, "--status", "--settled", "0")
    assert "done      good.mp4" in status.out
    # Tried again where the other video takes longer than the wait for it.
    assert re.search(r"failed    bad.mp4 .*tried \d+ times", status.out)
    rows = json.loads(reellama("watch", tmp_path, "--status", "--json", "--settled", "0").out)
    assert {row["state"] for row in rows} == {"done", "failed"}


@pytest.mark.slow
def test_workers_that_are_killed_lose_nothing_and_do_nothing_twice(
    square_video: Path, tmp_path: Path
) -> None:
    names = [f"{i:02}.mp4" for i in range(6)]
    for name in names:
        shutil.copy(square_video, tmp_path / name)
    command = [
        sys.executable,
        "-m",
        "reellama",
        "watch",
        str(tmp_path),
        "--no-cache",
    ]
    command += ["--once", "--settled", "0", "--threads", "1"]
    rng = random.Random(0)
    written: dict[str, int] = {}
    for life in range(3):
        worker = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        if life < 2:  # killed at some moment of the work on its second video
            while len(list(tmp_path.glob("*.json"))) == len(written):
                assert worker.poll() is None
                time.sleep(0.02)
            time.sleep(rng.uniform(0, 0.5))
            worker.kill()
        worker.wait(120)
        dates = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
        assert written.items() <= dates.items(), "written twice"
        written = dates
    for name in names:
        assert json.loads((tmp_path / f"{name}.json").read_text())["scenes"]
        assert (tmp_path / f"{name}.srt").read_text().startswith("1\n")
    left = {path.name for path in tmp_path.iterdir()} - {".reellama"}
    assert left == {n + end for n in names for end in ("", ".json", ".srt")}
    assert not list((tmp_path / ".reellama").glob("half-*"))
    assert os.listdir(tmp_path / ".reellama") == ["lock"]
