"""Everything but training works without torch: it is an extra, with gigabytes of CUDA on Linux."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from reellama.gguf_tools.locate.vision_models import VisionModel
from reellama.models.bundle import Bundle
from reellama.models.train_extra import PACKAGES

# Runs commands, a JSON list a line, and says how each ended. None in sys.modules: not installed.
SESSION = """
import contextlib, io, json, sys
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None
from reellama.pipeline.cli import main
for line in sys.stdin:
    command = json.loads(line)
    out, err = io.StringIO(), io.StringIO()
    real, sys.stdin = sys.stdin, io.StringIO(command["stdin"])
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        out.reconfigure = err.reconfigure = lambda **_: None
        try:
            status = main.run(command["arguments"])
        except Exception as error:
            status = repr(error)
    sys.stdin = real
    print(json.dumps([status, out.getvalue(), err.getvalue()]), flush=True)
"""


class Ended(NamedTuple):
    status: int | str
    out: str
    err: str


class Installation:
    """reellama as `pip install reellama` would have it, in one process that stays."""

    def __init__(self, folder: Path) -> None:
        places = {
            "REELLAMA_CACHE": folder / "cache",
            "XDG_DATA_HOME": folder / "data",
            "XDG_CONFIG_HOME": folder / "no-config",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", SESSION, json.dumps(PACKAGES)],
            cwd=folder, env=os.environ | {name: str(path) for name, path in places.items()},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(self, *arguments: str | Path, stdin: str = "") -> Ended:
        assert self._process.stdin and self._process.stdout
        command = {"arguments": [str(argument) for argument in arguments], "stdin": stdin}
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return Ended(*json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.communicate(timeout=60)


@pytest.fixture(scope="module")
def reellama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    made = Installation(tmp_path_factory.mktemp("without-torch"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def video(reellama: Installation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "star.mp4"
    assert reellama("demo-video", path).status == 0
    return path


def test_mini_answers_and_goes_on_in_a_conversation(reellama: Installation, video: Path) -> None:
    for command in ("ask", "describe"):
        ended = reellama(command, video, *(["What happens?"] if command == "ask" else []))
        assert ended.status == 0 and "star" in ended.out, ended
    ended = reellama("chat", video, stdin="What happens?\n/inspect\n")
    assert ended.status == 0 and "star" in ended.out + ended.err, ended


def test_soft_tokens_are_read(reellama: Installation, video: Path) -> None:
    ended = reellama("inspect", video, "--json")
    assert ended.status == 0, ended
    texts = {slot["slot"]: slot["text"] for slot in json.loads(ended.out)["fields"]}
    assert texts["thing 1: name"] == "red star" and texts["ImageNet"]


@pytest.mark.slow
def test_long_videos_are_described_and_searched(reellama: Installation, video: Path) -> None:
    commands: tuple[tuple[str | Path, ...], ...] = (
        ("timeline", video, "--ask", "What moves?"),
        ("search", video, "a red star"),
        ("watch", video.parent, "--once"),
    )
    for command in commands:
        ended = reellama(*command)
        assert ended.status == 0, ended
    assert video.with_name("star.mp4.srt").is_file()


def test_a_vision_model_answers(
    reellama: Installation, video: Path, vision_model: Callable[[str], VisionModel]
) -> None:
    llm = vision_model("gemma3").llm
    ended = reellama("ask", video, "What?", "--bundle", llm, "--max-tokens", "3")
    assert ended.status == 0, ended


@pytest.mark.parametrize(
    "command",
    [["doctor"], ["cache"], ["gguf", "list"], ["gguf", "inspect", "mini-llm"], ["train", "--help"]],
    ids=" ".join,
)
def test_other_commands_need_no_torch(reellama: Installation, command: list[str]) -> None:
    ended = reellama(*command)
    assert ended.status == 0, ended


def test_questions_of_a_file_are_evaluated(reellama: Installation, video: Path) -> None:
    questions = video.with_name("questions.jsonl")
    row = {"video": str(video), "question": "What moves?", "answer": "a red star"}
    questions.write_text(json.dumps(row) + "\n")
    assert reellama("eval", "mini", "--data", questions, "--no-controls").status == 0


@pytest.mark.parametrize(
    "command",
    [["train", "config.toml"], ["eval", "mini", "--benchmark"], ["export-graphs", "mini"]],
    ids=" ".join,
)
def test_what_needs_more_says_in_a_line_what_to_install(
    reellama: Installation, command: list[str]
) -> None:
    ended = reellama(*command)
    assert ended.status == 1 and ended.err.count("\n") == 1, ended
    assert ended.err.endswith("pip install 'reellama[train]'\n")


def test_a_task_that_the_benchmark_does_not_have_is_said_all_the_same(
    reellama: Installation,
) -> None:
    ended = reellama("eval", "mini", "--benchmark", "--task", "nope")
    assert ended.status == 2, ended
    assert "the benchmark has no such task; it has action, " in " ".join(ended.err.split())


def test_a_network_that_was_not_exported_says_what_to_do_once(
    reellama: Installation, video: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    for file in Bundle.load().folder.rglob("*"):
        copy = own / file.relative_to(Bundle.load().folder)
        if file.is_file() and file.name != "tower.zip":
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.symlink_to(file)
    ended = reellama("ask", video, "What moves?", "--bundle", own)
    assert ended.status == 1 and ended.err.count("\n") == 1, ended
    assert "its tower was not exported yet" in ended.err and "reellama[train]" in ended.err
