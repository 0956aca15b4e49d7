"""Photographs as a test: each is panned or zoomed in a video, and has the names of its kind."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.synthetic.assets import photographs
from reellama.models.synthetic.assets.pictures import DATA
from reellama.models.vision.imagenet_labels import class_names, synonyms
from reellama.pipeline.evaluation.tasks import photograph_naming
from reellama.pipeline.video.clip import read_frames


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Something at the place of every photograph; its videos are of few frames."""
    monkeypatch.setattr(photograph_naming, "VIDEO_FPS", 4)
    with (DATA / "photographs.csv").open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            stamp = tmp_path / photographs.PACKAGE / row["stamp"]
            stamp.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGBA", (60, 40), (number, 90, 10, 255)).save(stamp)
    return tmp_path


def test_every_photograph_is_a_video_in_which_something_changes(
    assets: Path, tmp_path: Path
) -> None:
    found = list(photograph_naming.photograph_items(3, 0, tmp_path, assets=assets))
    assert len({item.video for item in found}) == 3
    for item in found:
        assert item.kind == "open" and item.question == ""
        clip = read_frames(item.video, frames=4)
        assert clip.times[-1] > 3
        assert np.abs(clip.frames[0].astype(int) - clip.frames[-1]).mean() > 0.5


def test_the_answers_are_the_names_of_the_photographs_class(assets: Path, tmp_path: Path) -> None:
    (item,) = photograph_naming.photograph_items(1, 4, tmp_path, assets=assets)
    number = class_names().index(item.answer)
    assert [item.answer, *item.also] == synonyms(number)


def test_the_same_seed_gives_the_same_videos(assets: Path, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    first, again = (
        list(photograph_naming.photograph_items(2, 7, tmp_path / folder, assets=assets))
        for folder in ("one", "two")
    )
    assert [item.video.read_bytes() for item in first] == [i.video.read_bytes() for i in again]


def test_without_photographs_the_error_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photographs, "INSTALLED", tmp_path / "nowhere")
    with pytest.raises(ReellamaError, match="install Debian's tuxpaint-stamps-default"):
        next(photograph_naming.photograph_items(1, 0, tmp_path, assets=tmp_path))
