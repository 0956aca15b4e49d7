"""Data sets to train on: JSONL and CSV files, and clips drawn on the spot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gguf_tools.errors import ReellamaError
from models.data import STILLS, TRAIN, VALIDATION, FileSource, RenderedSource, read_rows
from models.rendered import RenderedClips, RenderedConfig

SHAPES = RenderedConfig(styles=("shapes",), style_weights=(1.0,), clips=6, validation=3)


def no_reader(path: Path, frames: int) -> tuple[list[np.ndarray], np.ndarray]:
    raise AssertionError("texts need no frames")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / name).touch()
    return tmp_path


def test_a_jsonl_row_is_a_caption_or_a_question(folder: Path) -> None:
    rows = [
        {"video": "a.mp4", "caption": "A dog.\nIt runs."},
        {"video": "b.mp4", "question": "Who?", "answer": "A cat."},
    ]
    path = folder / "data.jsonl"
    path.write_text("\n\n".join(json.dumps(row) for row in rows))
    found = read_rows(path, "Describe the video.")
    assert [(row.video.name, row.question, row.answer) for row in found] == [
        ("a.mp4", "Describe the video.", "A dog.\nIt runs."),
        ("b.mp4", "Who?", "A cat."),
    ]


def test_a_csv_caption_may_span_lines(folder: Path) -> None:
    path = folder / "data.csv"
    path.write_text('video,caption\na.mp4,"A dog, and\na cat."\nb.mp4,A bird.\n')
    found = read_rows(path, "Describe.")
    assert [row.answer for row in found] == ["A dog, and\na cat.", "A bird."]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"video": "a.mp4"}', "needs video"),
        ('{"video": "nowhere.mp4", "caption": "x"}', "no such video"),
        ('{"video": "a.mp4", "caption": "x"}\nnot json', "data.jsonl:2: not JSON"),
        ("[1, 2]", "needs video"),
        ("", "no rows"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(folder: Path, text: str, complaint: str) -> None:
    path = folder / "data.jsonl"
    path.write_text(text)
    with pytest.raises(ReellamaError, match=complaint) as caught:
        read_rows(path, "Describe.")
    assert "data.jsonl" in str(caught.value) and "\n" not in str(caught.value)


def test_rows_of_one_video_are_one_clip(folder: Path) -> None:
    path = folder / "data.csv"
    path.write_text("video,question,answer\na.mp4,Who?,A dog.\na.mp4,Where?,At home.\n")
    source = FileSource(path, no_reader, 8, "Describe.")
    assert source.count(TRAIN) == 1
    assert source.texts(TRAIN, 0) == [("Who?", "A dog."), ("Where?", "At home.")]


def test_videos_that_validate_are_not_trained_on(folder: Path) -> None:
    names = [f"clip{number}.mp4" for number in range(60)]
    for name in names:
        (folder / name).touch()
    path = folder / "data.csv"
    path.write_text("video,caption\n" + "".join(f"{name},About {name}\n" for name in names))
    source = FileSource(path, no_reader, 8, "Describe.")
    texts = {
        split: {source.texts(split, i)[0] for i in range(source.count(split))}
        for split in (TRAIN, VALIDATION)
    }
    assert texts[TRAIN] and texts[VALIDATION]
    assert not texts[TRAIN] & texts[VALIDATION]
    assert len(texts[TRAIN] | texts[VALIDATION]) == 60


def test_a_drawn_clip_is_the_same_whenever_it_is_drawn() -> None:
    one, other = (RenderedSource(RenderedClips(SHAPES), 4, "Describe.") for _ in range(2))
    for split, frames in ((TRAIN, 8), (VALIDATION, 8), (STILLS, 1)):
        assert one.texts(split, 2) == other.texts(split, 2)
        (pictures, times), (again, _) = one.read(split, 2), other.read(split, 2)
        assert len(pictures) == len(times) == frames
        np.testing.assert_array_equal(pictures, again)


def test_splits_share_no_clip() -> None:
    clips = RenderedClips(SHAPES)
    captions = [
        [(clips.clip(split, i).caption, clips.clip(split, i).scene.duration) for i in range(20)]
        for split in ("train", "validation", "test")
    ]
    assert len({clip for split in captions for clip in split}) == 60
