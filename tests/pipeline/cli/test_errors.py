"""Bad input: one clear line on stderr, exit status 1, nothing on stdout, never a traceback."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import Result
from tests.helpers.full_disk import full_disk
from tests.helpers.terminal import REELLAMA, ROOT, TIMEOUT_SECONDS

Run = Callable[..., Result]


@pytest.fixture
def error_line(reellama: Run, small_bundle: Path) -> Callable[..., str]:
    """Ask about a video in vain; returns the one line."""

    def ask(video: Path, *options: str | Path, bundle: Path = small_bundle) -> str:
        small = ("--threads=1", "--n-ctx=256", "--max-tokens=2")
        result = reellama("ask", video, "What happens?", "--bundle", bundle, *small, *options)
        assert result.status == 1
        assert result.out == ""
        (line,) = result.err.splitlines()
        assert line.startswith("reellama: ")
        return line

    return ask


def text_renamed(folder: Path, video: Path) -> tuple[Path, str]:
    (folder / "notes.mp4").write_text("Buy milk.\n" * 50)
    return folder / "notes.mp4", "notes.mp4"


def truncated(folder: Path, video: Path) -> tuple[Path, str]:
    (folder / "half.mp4").write_bytes(video.read_bytes()[:1500])
    return folder / "half.mp4", "half.mp4"


def empty(folder: Path, video: Path) -> tuple[Path, str]:
    (folder / "empty.mp4").touch()
    return folder / "empty.mp4", "empty"


def missing(folder: Path, video: Path) -> tuple[Path, str]:
    return folder / "nowhere.mp4", "no such file"


def sound_only(folder: Path, video: Path) -> tuple[Path, str]:
    path = folder / "song.wav"
    with av.open(path, "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    return path, "song.wav"


def folder_without_pictures(folder: Path, video: Path) -> tuple[Path, str]:
    (folder / "docs").mkdir()
    (folder / "docs" / "a.txt").write_text("a")
    return folder / "docs", "docs"


@pytest.mark.parametrize(
    "make", [text_renamed, truncated, empty, missing, sound_only, folder_without_pictures]
)
def test_a_file_that_is_no_video_is_named_with_the_reason(
    error_line: Callable[..., str],
    make: Callable[[Path, Path], tuple[Path, str]],
    tmp_path: Path,
    square_video: Path,
) -> None:
    path, reason = make(tmp_path, square_video)
    line = error_line(path)
    assert str(path) in line
    assert reason in line


@contextmanager
def without_root_rights() -> Iterator[None]:
    """Without root's rights, which reach everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_without_permission_is_refused(
    error_line: Callable[..., str], tmp_path: Path, square_video: Path
) -> None:
    closed = tmp_path / "closed.mp4"
    shutil.copy(square_video, closed)
    closed.chmod(0)
    for folder in tmp_path.parents[:2]:
        folder.chmod(0o755)
    tmp_path.chmod(0o755)
    with without_root_rights():
        assert "permission" in error_line(closed).lower()


def test_a_start_past_the_end_is_refused(
    error_line: Callable[..., str], square_video: Path
) -> None:
    assert "60" in error_line(square_video, "--start=60")


def test_an_empty_question_is_refused(reellama: Run, square_video: Path) -> None:
    result = reellama("ask", square_video, "-", stdin="\n")
    assert (result.status, result.out) == (1, "")
    assert "question is empty" in result.err


def test_an_llm_that_is_cut_off_missing_or_no_gguf_is_named(
    error_line: Callable[..., str], square_video: Path, smollm2: Path, tmp_path: Path
) -> None:
    cut, text = tmp_path / "cut.gguf", tmp_path / "text.gguf"
    cut.write_bytes(smollm2.read_bytes()[:3_000_000])
    text.write_text("GGUF? no")
    for path in (cut, text, tmp_path / "none.gguf"):
        assert str(path) in error_line(square_video, "--llm", path)


def test_a_bundle_made_for_another_llm_is_refused(
    error_line: Callable[..., str], square_video: Path, gemma: Path
) -> None:
    line = error_line(square_video, "--llm", gemma)
    assert str(gemma) in line
    assert "640" in line
    assert "576" in line


@pytest.fixture
def bundle(small_bundle: Path, tmp_path: Path) -> Path:
    """A bundle of one's own, to break."""
    return shutil.copytree(small_bundle, tmp_path / "bundle")


def test_a_projector_with_nan_is_refused(
    error_line: Callable[..., str], square_video: Path, bundle: Path
) -> None:
    path = bundle / "projector.safetensors"
    weights = load_file(path)
    name = next(iter(weights))
    weights[name].view(-1)[0] = torch.nan
    save_file(weights, path)
    line = error_line(square_video, bundle=bundle)
    assert str(path) in line
    assert "NaN" in line


def test_the_broken_file_of_a_bundle_is_named(
    error_line: Callable[..., str], square_video: Path, bundle: Path
) -> None:
    (bundle / "projector.safetensors").write_bytes(b"nonsense")
    assert "projector.safetensors" in error_line(square_video, bundle=bundle)
    (bundle / "projector.safetensors").unlink()
    assert "missing" in error_line(square_video, bundle=bundle)
    (bundle / "bundle.json").write_text(json.dumps({"format": 1}))
    assert "bundle.json" in error_line(square_video, bundle=bundle)
    assert "bundle.json" in error_line(square_video, bundle=bundle / "nowhere")


def test_grammar_and_schema_files_that_cannot_be_used_are_refused(
    error_line: Callable[..., str], square_video: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("root ::= (")
    assert "GBNF" in error_line(square_video, "--grammar", wrong)
    assert "not JSON" in error_line(square_video, "--json-schema", wrong)
    assert "No such file" in error_line(square_video, "--grammar", tmp_path / "none")


@pytest.fixture
def long_answer(small_bundle: Path, square_video: Path, endless: Path) -> list[str]:
    """A command whose answer goes on and on."""
    return [
        *(*REELLAMA, "ask", str(square_video), "What?", f"--bundle={small_bundle}"),
        *(f"--grammar={endless}", "--max-tokens=4000", "--threads=1"),
    ]


def test_an_answer_ends_quietly_when_stdout_is_closed_at_its_other_end(
    long_answer: list[str],
) -> None:
    child = subprocess.Popen(
        long_answer, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stderr is not None
    assert child.stdout.read(4) == "tick"
    child.stdout.close()
    assert child.stderr.read() == ""
    assert child.wait(TIMEOUT_SECONDS) == 1


def test_a_full_disk_behind_stdout_is_reported_in_one_line(
    long_answer: list[str], tmp_path: Path
) -> None:
    # Linux's own full disk, and where there is none a limit on the size of files.
    command = f"exec {' '.join(long_answer)} > /dev/full"
    if not Path("/dev/full").exists():
        command = f"ulimit -f 0; trap '' XFSZ; exec {' '.join(long_answer)} > {tmp_path / 'out'}"
    result = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("reellama: what stdout leads to: ")


def test_a_full_disk_is_told_with_the_file_and_leaves_none(
    reellama: Run, square_video: Path, small_bundle: Path, tmp_path: Path
) -> None:
    small = ("--bundle", small_bundle, "--threads=1")
    scenes, demo, page = (tmp_path / name for name in ("scenes.srt", "demo.mp4", "page.html"))
    for path, command in (
        (scenes, ("timeline", square_video, *small, "--out", scenes)),
        (demo, ("demo-video", demo)),
        (page, ("inspect", square_video, "--bundle", small_bundle, "--html", page)),
    ):
        with full_disk():
            result = reellama(*command)
        assert result.status == 1
        assert result.err.splitlines()[-1] == f"reellama: cannot save {path}: File too large"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seconds", [0.7, 2.0, None])
def test_ctrl_c_at_any_moment_stops_with_status_130(
    long_answer: list[str], seconds: float | None
) -> None:
    """While it imports, while it loads and, for None, when it has begun to answer."""
    child = subprocess.Popen(
        long_answer, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    if seconds is None:
        assert child.stdout is not None and child.stdout.read(4) == "tick"
    else:
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(seconds)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=TIMEOUT_SECONDS)
    assert errors == "reellama: stopped\n"
    assert child.returncode == 130


# Ctrl-C in the middle of what llama.cpp says while it loads a model, and of what Python cleans up.
LOST = """
import signal, sys
from reellama.gguf_tools.runtime import backend
from reellama.pipeline.cli.main import main

class Log(type(backend._log)):
    def append(self, line):
        interrupt()

class Litter:
    def __del__(self):
        interrupt()

def interrupt():
    if not came:
        came.append(True)
        signal.raise_signal(signal.SIGINT)

came = []
if sys.argv.pop(1) == "log":
    backend._log = Log()
else:
    original = backend.load_model
    backend.load_model = lambda *a, **k: (Litter(), original(*a, **k))[1]
main()
"""


@pytest.mark.parametrize("where", ["log", "cleaning"])
def test_ctrl_c_stops_also_where_python_drops_the_interrupt(
    long_answer: list[str], where: str
) -> None:
    result = subprocess.run(
        [long_answer[0], "-c", LOST, where, *long_answer[3:]],
        cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (130, "reellama: stopped\n")


def test_a_url_is_refused_with_the_reason(reellama: Run) -> None:
    for command in (
        ("ask", "URL", "What?"),
        ("timeline", "URL"),
        ("watch", "URL"),
        ("inspect", "URL"),
    ):
        words = ("https://example.com/a.mp4" if word == "URL" else word for word in command)
        result = reellama(*words)
        assert result.status == 1
        assert "https://example.com/a.mp4: this is a URL, and nothing is fetched" in result.err


def test_sampling_by_fps_without_a_rate_names_the_option(reellama: Run, square_video: Path) -> None:
    result = reellama("ask", square_video, "What?", "--sampling", "fps")
    assert result.status == 2 and "--fps" in result.err


def test_an_ending_that_is_no_format_is_refused(reellama: Run, tmp_path: Path) -> None:
    result = reellama("timeline", tmp_path / "a.mp4", "--out", tmp_path / "x.xyz")
    assert result.status == 2 and "x.xyz" in result.err and ".srt" in result.err
    result = reellama("demo-video", tmp_path / "x.xyz")
    assert result.status == 2 and "x.mp4" in result.err
    assert not list(tmp_path.glob("x.*"))


def test_no_timeline_is_made_that_could_not_or_should_not_be_saved(
    reellama: Run, square_video: Path, tmp_path: Path
) -> None:
    result = reellama("timeline", square_video, "--out", tmp_path / "nowhere" / "x.srt")
    assert result.status == 1 and "nowhere" in result.err
    made = tmp_path / "lecture.srt"
    made.write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n")
    result = reellama("timeline", square_video, "--out", made)
    assert result.status == 1 and "these subtitles are not by reellama" in result.err
    assert "Hello" in made.read_text()


def test_closed_streams_are_reported_or_left_alone(square_video: Path) -> None:
    command = f"exec {' '.join(REELLAMA)} ask {square_video} What >&-"
    result = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (
        1,
        "reellama: stdout is closed, so there is no place for an answer\n",
    )
    command = f"exec {' '.join(REELLAMA)} --version <&- 2>&-"
    result = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout.startswith("reellama ")


def test_a_video_that_the_disk_has_no_room_for_is_not_left_half_written(tmp_path: Path) -> None:
    command = f"ulimit -f 4; trap '' XFSZ; exec {' '.join(REELLAMA)} demo-video {tmp_path}/a.mp4"
    result = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert f"{tmp_path}/a.mp4: " in line
    assert os.listdir(tmp_path) == []
