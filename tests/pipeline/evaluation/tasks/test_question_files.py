"""Questions from files: JSONL, and MVBench's own layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.evaluation.items import by_video
from reellama.pipeline.evaluation.tasks.question_files import load_questions
from tests.conftest import Result

Run = Callable[..., Result]


@pytest.fixture
def write(tmp_path: Path, square_video: Path) -> Callable[..., Path]:
    """Writes rows beside the videos a.mp4 and b.mp4; returns the path of the file."""
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(square_video, tmp_path / name)

    def write_rows(*rows: object) -> Path:
        path = tmp_path / "questions.jsonl"
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) + "\n")
        return path

    return write_rows


def test_a_row_is_a_question_with_choices_or_without_or_a_caption(
    write: Callable[..., Path],
) -> None:
    ask = {"video": "a.mp4", "question": "What?", "answer": "x"}
    path = write(
        ask, {**ask, "choices": ["x", "y"], "task": "t"}, {"video": "a.mp4", "caption": "z"}
    )
    first, second, third = load_questions(path).items
    assert (first.kind, first.task, first.video) == ("open", "open", path.parent / "a.mp4")
    assert (second.kind, second.task, second.choices) == ("choice", "t", ("x", "y"))
    assert (third.kind, third.task, third.references) == ("caption", "caption", ("z",))


def test_questions_about_one_part_of_a_video_stand_together(write: Callable[..., Path]) -> None:
    ask = {"question": "What?", "answer": "x"}
    a, b = {"video": "a.mp4", **ask}, {"video": "b.mp4", **ask}
    groups = list(by_video(load_questions(write(a, b, "", a, {**a, "start": 1, "end": 2})).items))
    assert [(g[0].video.name, g[0].start, len(g)) for g in groups] == [
        ("a.mp4", None, 2),
        ("b.mp4", None, 1),
        ("a.mp4", 1.0, 1),
    ]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("{", "Expecting property name"),
        ("[]", "not a JSON object"),
        ({"question": "?", "answer": "x"}, "`video` must be a text, and is missing"),
        ({"video": "c.mp4", "question": "?", "answer": "x"}, "there is no"),
        ({"video": "a.mp4", "question": "?"}, "`answer` must be a text, and is missing"),
        ({"video": "a.mp4", "question": 3, "answer": "x"}, "`question` must be a text"),
        (
            {"video": "a.mp4", "question": "?", "answer": "x", "choices": ["y", "z"]},
            "the answer 'x' is not among the choices",
        ),
        (
            {"video": "a.mp4", "question": "?", "answer": "x", "choices": ["x", "x"]},
            "two or more, and all different",
        ),
        ({"video": "a.mp4", "question": "?", "answer": "x", "choices": "x"}, "list of texts"),
        ({"video": "a.mp4", "caption": []}, "`caption` must be"),
        ({"video": "a.mp4", "caption": "x", "start": "1"}, "`start` must be seconds"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(
    write: Callable[..., Path], row: object, complaint: str
) -> None:
    path = write({"video": "a.mp4", "caption": "x"}, row)
    with pytest.raises(ReellamaError) as error:
        load_questions(path)
    assert complaint in str(error.value)
    assert f"{path}, line 2: " in str(error.value)


def test_a_file_without_questions_or_none_at_all_is_said(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    for path, complaint in ((empty, "no question"), (tmp_path / "no.jsonl", "No such file")):
        with pytest.raises(ReellamaError, match=complaint):
            load_questions(path)


@pytest.fixture
def mvbench(tmp_path: Path, square_video: Path) -> Path:
    """Two tasks whose videos have the same name, one with a video that nobody downloaded."""
    root = tmp_path / "MVBench"
    for folder in ("clevrer/video_validation", "perception/videos"):
        (root / "video" / folder).mkdir(parents=True)
        shutil.copy(square_video, root / "video" / folder / "video_1.mp4")
    (root / "json").mkdir()
    question = {"question": "Which way?", "candidates": ["Left", "Right"], "answer": "Right"}
    rows = [{"video": "video_1.mp4", **question}, {"video": "video_2.mp4", **question}]
    (root / "json/moving_direction.json").write_text(json.dumps(rows))
    part = {"video": "video_1.mp4", "start": 0.5, "end": 1.5, **question}
    (root / "json/object_shuffle.json").write_text(json.dumps([part]))
    return root


def test_mvbench_is_read_as_it_is_downloaded(mvbench: Path) -> None:
    for path in (mvbench, mvbench / "json"):
        loaded = load_questions(path)
        first, second = loaded.items
        assert first.task == "moving direction" and first.choices == ("Left", "Right")
        assert first.video == mvbench / "video/clevrer/video_validation/video_1.mp4"
        assert second.task == "object shuffle" and (second.start, second.end) == (0.5, 1.5)
        assert second.video == mvbench / "video/perception/videos/video_1.mp4"
        assert loaded.missing == ("moving_direction: video_2.mp4",)


def test_videos_that_were_unpacked_elsewhere_are_found_by_their_names(mvbench: Path) -> None:
    shutil.move(mvbench / "video/clevrer", mvbench / "unpacked")
    shutil.rmtree(mvbench / "video/perception")
    assert len(load_questions(mvbench).items) == 2


def test_a_folder_of_pictures_has_three_a_second(mvbench: Path) -> None:
    frames = mvbench / "video/tvqa/frames_fps3_hq/castle"
    frames.mkdir(parents=True)
    row = {"question": "?", "candidates": ["a", "b"], "answer": "a", "video": "castle"}
    part = {**row, "start": 2, "end": 4.5}
    (mvbench / "json/episodic_reasoning.json").write_text(json.dumps([part]))
    item = next(item for item in load_questions(mvbench).items if item.video == frames)
    assert (item.start, item.end) == (6, 13.5)


def test_a_folder_without_questions_or_videos_is_said(mvbench: Path, tmp_path: Path) -> None:
    with pytest.raises(ReellamaError, match="no questions there"):
        load_questions(mvbench / "video")
    shutil.rmtree(mvbench / "video")
    with pytest.raises(ReellamaError, match="none of its 3 videos"):
        load_questions(mvbench)
    (mvbench / "json/object_shuffle.json").write_text('[{"video": "x"}]')
    with pytest.raises(ReellamaError, match="object_shuffle.json, entry 1: not a question"):
        load_questions(mvbench)


def test_missing_and_broken_videos_are_counted_and_not_fatal(
    reellama: Run, mvbench: Path, small_bundle: Path
) -> None:
    (mvbench / "video/perception/videos/video_1.mp4").write_bytes(b"not a video")
    result = reellama("eval", small_bundle, "--data", mvbench, "--threads=1", "--frames=2")
    assert result.status == 0, result.err
    assert "1 video missing: moving_direction: video_2.mp4" in result.out
    assert "1 video unreadable" in result.out
