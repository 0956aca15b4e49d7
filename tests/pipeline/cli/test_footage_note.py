"""`timeline` and `search` say what `ask` does of real footage: that `mini` is often wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from tests.conftest import Result
from tests.helpers.film import steady, write_film

pytestmark = pytest.mark.numeric

PICTURES = Path(skimage.__file__).parent / "data"


@pytest.fixture(scope="module")
def two_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cat, and from 3 s on coffee."""
    photos = [
        np.asarray(Image.open(PICTURES / name).convert("RGB").resize((320, 240)))
        for name in ("chelsea.png", "coffee.png")
    ]
    path = tmp_path_factory.mktemp("films") / "two.mp4"
    return write_film(path, steady(6), draw=lambda i: photos[i >= 30])


@pytest.mark.parametrize("options", [(), ("--ask", "What is it?")])
def test_timeline_warns_of_footage_once_on_stderr(
    options: tuple[str, ...], reellama: Callable[..., Result], two_scenes: Path
) -> None:
    result = reellama("timeline", two_scenes, "--threads", "1", *options)
    assert result.status == 0
    (line,) = [line for line in result.err.splitlines() if "often wrong" in line]
    assert line.startswith("two.mp4: real footage: mini names what it sees")
    assert "often wrong" not in result.out


def test_search_warns_of_footage_once_whatever_it_finds_and_with_a_kept_index_too(
    reellama: Callable[..., Result], two_scenes: Path, demo_video: Path
) -> None:
    for words in ("a cat", "a cat", "a xylophone"):
        result = reellama("search", demo_video, two_scenes, two_scenes, words, "--json")
        (line,) = [line for line in result.err.splitlines() if "often wrong" in line]
        assert line.startswith("two.mp4: real footage: mini") and "--bundle" not in line
    assert "often wrong" not in reellama("search", demo_video, "a red star").err


def test_quiet_runs_and_drawn_clips_have_no_warning_of_footage(
    reellama: Callable[..., Result], two_scenes: Path, demo_video: Path
) -> None:
    assert "often wrong" not in reellama("timeline", two_scenes, "--threads=1", "--quiet").err
    assert "often wrong" not in reellama("timeline", demo_video, "--threads=1").err


def test_an_answer_of_the_file_has_no_warning_of_footage(reellama: Callable[..., Result]) -> None:
    photo = PICTURES / "chelsea.png"
    for question in ("How long is it?", "What do they say?", "¿Qué se ve en el video?"):
        result = reellama("ask", photo, question, "--no-server")
        assert result.status == 0
        assert "often wrong" not in result.err, question
    data = json.loads(reellama("ask", photo, "How long is it?", "--json", "--no-server").out)
    assert data["videos"][0]["notes"] == []


def test_an_answer_of_what_is_seen_has_the_warning_of_footage_as_a_note_too(
    reellama: Callable[..., Result],
) -> None:
    short = ("--max-tokens=2", "--no-server")
    result = reellama("ask", PICTURES / "chelsea.png", "Is it a cat?", "--json", *short)
    (note,) = json.loads(result.out)["videos"][0]["notes"]
    assert "often wrong" in note
    (line,) = [line for line in result.err.splitlines() if "often wrong" in line]
    assert line == f"chelsea.png: {note}"
