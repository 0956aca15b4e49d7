"""Into a pipe, tables go as programs read them: a line a row, whole, with nothing after its end."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from reellama.gguf_tools.editing.edit import Setting, edit
from tests.conftest import Result

Run = Callable[..., Result]

LONG = "word " * 60 + "end"


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A narrow terminal around the pipe, of which shells export the width."""
    monkeypatch.setenv("COLUMNS", "40")


@pytest.fixture
def wordy_model(small_llm: Path, tmp_path: Path) -> Path:
    """A model with a long value, and a name that looks like markup and like an emoji."""
    path = tmp_path / ("[red]:dog:-" + "long-" * 30 + "name.gguf")
    edit(small_llm, path, [Setting.parse(f"general.description={LONG}")])
    return path


def printed(result: Result) -> list[str]:
    """The lines on stdout and stderr, none of which has blanks at its end or an escape sequence."""
    assert result.status == 0, result.err
    text = result.out + result.err
    assert not re.search(r"[ \t]$", text, re.MULTILINE)
    assert "\x1b" not in text
    return text.splitlines()


@pytest.mark.usefixtures("narrow", "empty_home")
@pytest.mark.parametrize(
    "command",
    [
        ("cache",),
        ("gguf", "list"),
        ("gguf", "quantize", "mini-llm", "--types"),
        ("gguf", "fit", "mini-llm", "--vram", "1GiB"),
        ("gguf", "inspect", "mini-llm", "--tensors"),
        ("inspect", "VIDEO", "--all"),
        ("inspect", "VIDEO", "--token", "6"),
        ("search", "VIDEO", "a red star"),
    ],
    ids=" ".join,
)
def test_no_table_is_padded_or_wrapped(
    reellama: Run, demo_video: Path, command: tuple[str, ...]
) -> None:
    words = [demo_video if word == "VIDEO" else word for word in command]
    assert max(map(len, printed(reellama(*words)))) > 40  # one is longer than the terminal is wide


@pytest.mark.usefixtures("narrow")
def test_values_are_whole(reellama: Run, wordy_model: Path) -> None:
    lines = printed(reellama("gguf", "inspect", wordy_model))
    assert any(str(wordy_model) in line for line in lines)
    (value,) = [line for line in lines if line.startswith("general.description ")]
    assert value.endswith(f'"{LONG}"')
    lines = printed(reellama("gguf", "inspect", wordy_model, "--diff", "mini-llm"))
    assert any(LONG in line for line in lines)


@pytest.mark.usefixtures("narrow")
def test_timings_and_alternatives_are_lines_too(
    reellama: Run, square_video: Path, small_bundle: Path
) -> None:
    small = ("--bundle", small_bundle, "--threads=1", "--n-ctx=256", "--max-tokens=4")
    lines = printed(reellama("ask", square_video, "What?", *small, "--timings", "--probs"))
    assert any(line.startswith("first token") and "prefill included" in line for line in lines)


def test_names_are_neither_markup_nor_emojis(
    reellama: Run, small_bundle: Path, tmp_path: Path
) -> None:
    for name in ("[red]a:dog:b.png", "c.png"):
        Image.new("RGB", (64, 64), "red").save(tmp_path / name)
    small = ("--bundle", small_bundle, "--threads=1", "--n-ctx=256", "--max-tokens=2")
    result = reellama("describe", *sorted(tmp_path.glob("*.png")), *small)
    assert [line.partition(": ")[0] for line in result.out.splitlines()] == [
        "[red]a:dog:b.png",
        "c.png",
    ]
