"""Questions about drawn videos, and captions of real photographs from scikit-image's wheel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from reellama.models.synthetic.render import render
from reellama.models.synthetic.rendered_clips import RenderedClips, RenderedConfig
from reellama.models.synthetic.video_writer import write_video

CAPTIONS = {
    "astronaut": "a woman in an orange suit smiles,a woman before a flag,the woman is smiling",
    "chelsea": "a cat looks up,a cat with green eyes,the face of a ginger cat",
    "coffee": "a cup of coffee with a spoon,a cup on a table,hot coffee in a cup",
    "motorcycle_left": "a motorcycle in a garage,a motorcycle stands there,motorcycles indoors",
    "rocket": "a rocket before its launch,a rocket at night,the rocket stands on its pad",
    "coins": "old coins in rows,many coins,coins on a grey ground",
}
CROPS = 2  # of each photograph: the left and the right part
WAYS = ("moves left", "moves right", "moves up", "moves down")
CLIPS = 4  # each moves another way
FEW = 2  # of them, where nothing is to be seen


@pytest.fixture(scope="package", autouse=True)
def short_answers() -> Iterator[None]:
    """A bundle that was not trained never comes to an end, and `mini` says it in fewer tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reellama.pipeline.evaluation.runner.MAX_TOKENS", 16)
        yield


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


@pytest.fixture(scope="session")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSONL file of two parts of each photograph, which overlap, with four captions each."""
    folder = tmp_path_factory.mktemp("captioned")
    rows = []
    for name, captions in CAPTIONS.items():
        picture = np.asarray(_photograph(name).convert("RGB"))
        step = picture.shape[1] // 4
        for part in range(CROPS):
            path = folder / f"{name}-{part}.png"
            crop = Image.fromarray(picture[:, part * step : (part + 3) * step])
            crop.thumbnail((160, 160))
            crop.save(path)
            texts = [*captions.split(","), f"{captions.split(',')[0]} in part {part}"]
            rows.append({"video": path.name, "captions": texts})
    file = folder / "captioned.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


def _photograph(name: str) -> Image.Image:
    folder = Path(skimage.__file__).parent / "data"
    return Image.open(next(folder.glob(f"{name}.*")))
