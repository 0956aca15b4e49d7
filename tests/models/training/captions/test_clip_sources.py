"""Data sets to train on: JSONL and CSV files, and clips drawn on the spot."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.synthetic.rendered_clips import RenderedClips, RenderedConfig
from reellama.models.training.captions.clip_sources import (
    STILLS,
    TRAIN,
    VALIDATION,
    FileSource,
    RenderedSource,
    read_caption_rows,
)
from reellama.models.training.feature_cache import FeatureCache

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
    found = read_caption_rows(path, "Describe the video.")
    assert [(row.video.name, row.question, row.answer) for row in found] == [
        ("a.mp4", "Describe the video.", "A dog.\nIt runs."),
        ("b.mp4", "Who?", "A cat."),
    ]


def test_a_csv_caption_may_span_lines(folder: Path) -> None:
    path = folder / "data.csv"
    path.write_text('video,caption\na.mp4,"A dog, and\na cat."\nb.mp4,A bird.\n')
    found = read_caption_rows(path, "Describe.")
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
        read_caption_rows(path, "Describe.")
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


def test_a_clip_also_tells_what_it_shows_backwards() -> None:
    source = RenderedSource(RenderedClips(SHAPES), 4, "Describe.")
    opposite = {"moves right": "moves left", "moves up": "moves down"}
    opposite |= {"grows": "shrinks", "appears": "disappears"}
    opposite |= {after: before for before, after in opposite.items()}
    changed = 0
    for number in range(source.count(TRAIN)):
        motions = {actor.motion for actor in source.clips.clip(TRAIN, number).scene.actors}
        (_, forwards), *_ = source.texts(TRAIN, number)
        (_, backwards), *others = source.texts(TRAIN, source.count(TRAIN) + number)
        expected = re.sub("|".join(motions), lambda m: opposite.get(m[0], m[0]), forwards)
        assert backwards == expected and others
        changed += backwards != forwards
    assert changed


class Brightness:
    """A tower that sees of a frame how bright it is."""

    dtype = torch.float32

    def grid(self, frames: list[np.ndarray]) -> np.ndarray:
        return np.array([[[frame.mean()]] for frame in frames], np.float32)


def test_features_of_a_clip_can_be_had_backwards(tmp_path: Path) -> None:
    seconds = np.array([0.5, 1.0, 4.0])

    def read(number: int) -> tuple[list[np.ndarray], np.ndarray]:
        return [np.full((2, 2, 3), number * 10 + i, np.uint8) for i in range(3)], seconds

    cache = FeatureCache(tmp_path, 2, both_ways=True)
    cache.build(Brightness(), read)  # type: ignore[arg-type]  # all of a tower that is asked for
    cache.open()
    assert cache.usable == [0, 1, 2, 3]
    batch = cache.batch([1, 3])
    assert batch.features.flatten(1).tolist() == [[10, 11, 12], [12, 11, 10]]
    assert batch.times.tolist() == [[0.5, 1.0, 4.0], [0.0, 3.0, 3.5]]


def test_splits_share_no_clip() -> None:
    clips = RenderedClips(SHAPES)
    captions = [
        [(clips.clip(split, i).caption, clips.clip(split, i).scene.duration) for i in range(20)]
        for split in ("train", "validation", "test")
    ]
    assert len({clip for split in captions for clip in split}) == 60
