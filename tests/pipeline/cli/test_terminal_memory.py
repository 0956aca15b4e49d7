"""The line on what a bundle cannot know of real footage is read once in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import skimage

from reellama.pipeline.cli.terminal import terminal_memory
from tests.conftest import Result
from tests.helpers.terminal import Terminal

ASTRONAUT = Path(skimage.__file__).parent / "data" / "astronaut.png"
ASKS = (
    "from reellama.pipeline.cli.terminal.terminal_memory import is_new_here as new;"
    "print(new('a'), new('a'), new('b'))"
)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(terminal_memory, "SHOWN_NOTICES", tmp_path / "told")
    return tmp_path


def test_a_terminal_remembers_a_line_from_one_command_to_the_next(cache_folder: Path) -> None:
    command = f'{sys.executable} -c "{ASKS}"'
    for _ in range(2):  # another terminal has heard nothing
        env = {"REELLAMA_CACHE": str(cache_folder)}
        with Terminal(["sh", "-c", f"{command}; {command}"], env=env) as terminal:
            terminal.wait_for("True False True\nFalse False False")


def test_a_script_gets_a_line_each_time() -> None:
    assert terminal_memory.is_new_here("a") and terminal_memory.is_new_here("a")


def test_a_line_is_printed_again_a_day_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal_memory, "_terminal", lambda: "/dev/pts/1 7")
    assert terminal_memory.is_new_here("a") and not terminal_memory.is_new_here("a")
    monkeypatch.setattr(terminal_memory, "REMEMBER_SECONDS", -1.0)
    assert terminal_memory.is_new_here("a")


@pytest.mark.numeric
def test_the_first_answer_about_footage_has_the_caveat_and_the_next_has_not(
    reellama: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal_memory, "_terminal", lambda: "/dev/pts/1 7")
    ask = ("ask", ASTRONAUT, "Does the camera move?", "--no-server")
    first, second = reellama(*ask), reellama(*ask)
    assert "cannot tell motion" in first.err and "a vision model tells more" in first.err
    assert "cannot tell motion" not in second.err
    assert first.out == second.out and "I cannot tell" in first.out
