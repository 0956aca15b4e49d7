"""Questions about drawn videos, for tests of evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from reellama.models.synthetic.render import render, write_video
from reellama.models.synthetic.rendered_clips import RenderedClips, RenderedConfig

WAYS = ("moves left", "moves right", "moves up", "moves down")
CLIPS = 6
FEW = 2  # of them, where nothing is to be seen


def draw(folder: Path, count: int) -> Iterator[tuple[Path, str]]:
    """Videos of one shape each that moves, and the way that it moves."""
    clips = RenderedClips(RenderedConfig(("shapes",), (1.0,), p_two=0))
    for number in range(count):
        way = WAYS[number % len(WAYS)]
        scene = clips.clip("test", number, motion=way).scene
        path = folder / f"{number}.mp4"
        write_video(path, render(scene, np.linspace(0, scene.duration, 24, endpoint=False)), 12)
        yield path, way


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSONL file: of each video its direction, whether there is a video, and a description."""
    folder = tmp_path_factory.mktemp("questions")
    rows: list[dict] = []
    for path, way in draw(folder, CLIPS):
        ask = {"video": path.name, "question": "Which way does it move?"}
        rows.append({**ask, "answer": way, "choices": list(WAYS), "task": "moving direction"})
        rows.append({**ask, "answer": way.removeprefix("moves "), "task": "way"})
        rows.append({"video": path.name, "caption": [f"A shape {way}.", f"Something {way}."]})
    file = folder / "questions.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def few(questions: Path) -> Path:
    """The same for a few videos."""
    file = questions.with_name("few.jsonl")
    file.write_text("".join(questions.read_text().splitlines(keepends=True)[: 3 * FEW]))
    return file
