"""A video that comes through a pipe is read as the file would be, and nothing of it stays."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest

from reellama.pipeline.video import piped_videos
from reellama.pipeline.video.clip import read_frames
from reellama.pipeline.video.source import VideoError
from tests.conftest import Result


def inspected(text: str) -> list[object]:
    return json.loads(text)["fields"]


@pytest.fixture
def fifo(tmp_path: Path, square_video: Path) -> Path:
    """What a shell puts in the place of <(cat square.mp4)."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    Thread(target=lambda: path.write_bytes(square_video.read_bytes()), daemon=True).start()
    return path


def test_a_named_pipe_is_read(
    reellama: Callable[..., Result], fifo: Path, square_video: Path, small_bundle: Path
) -> None:
    piped = reellama("inspect", fifo, "--json", f"--bundle={small_bundle}")
    plain = reellama("inspect", square_video, "--json", f"--bundle={small_bundle}")
    assert piped.status == 0
    assert inspected(piped.out) == inspected(plain.out)


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_a_video_on_stdin_is_read_and_nothing_stays(
    name: str, square_video: Path, small_bundle: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "reellama", "inspect", name, "--json"]
    command.append(f"--bundle={small_bundle}")
    result = subprocess.run(
        command,
        input=square_video.read_bytes(),
        capture_output=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert result.stderr == b""
    assert json.loads(result.stdout)["frames"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_nothing_stays_of_a_command_that_is_stopped(
    name: str, square_video: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "reellama", "ask", "-", "What?"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        # Under `nohup` the tests ignore it, and would hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    ) as process:
        assert process.stdin is not None
        process.stdin.write(square_video.read_bytes())
        process.stdin.flush()  # and stays open: the command waits for more
        wait_until(lambda: any(tmp_path.glob("reellama-*/stdin")))
        process.send_signal(signal.Signals[name])
        process.wait(30)
        wait_until(lambda: not any(tmp_path.iterdir()))


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("words", "reason"),
    [(["-", "What?"], "nothing came through the pipe"), (["-", "-", "What?"], "brings one video")],
)
def test_stdin_without_a_video_is_refused(words: list[str], reason: str) -> None:
    command = [sys.executable, "-m", "reellama", "ask", *words]
    result = subprocess.run(command, input="", capture_output=True, text=True)
    assert result.returncode == 1
    assert reason in result.stderr and "Traceback" not in result.stderr


def test_a_pipe_without_an_end_does_not_fill_the_disk(
    reellama: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def feed() -> None:
        with suppress(BrokenPipeError), endless.open("wb") as pipe:
            while True:
                pipe.write(bytes(1 << 20))

    endless, folder = tmp_path / "endless", tmp_path / "temporary"
    os.mkfifo(endless)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    least = shutil.disk_usage(folder).free - (200 << 20)
    monkeypatch.setattr(piped_videos, "MIN_FREE", least)
    feeder = Thread(target=feed, daemon=True)
    feeder.start()
    result = reellama("inspect", endless)
    assert result.status == 1
    assert "came through the pipe and it goes on" in result.err
    assert not [path for path in folder.rglob("*") if path.is_file()]
    feeder.join(timeout=60)
    assert not feeder.is_alive()


def test_in_python_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(VideoError, match="this is a pipe"):
        read_frames(tmp_path / "fifo")
