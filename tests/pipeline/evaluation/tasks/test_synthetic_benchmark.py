"""The benchmark of drawn clips: every task, about files, each item the same by its seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from reellama.pipeline.evaluation.tasks import synthetic_benchmark
from reellama.pipeline.evaluation.tasks.benchmark_tasks import TASKS
from reellama.pipeline.video.clip import read_frames


def test_the_benchmark_asks_every_task_about_files_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = synthetic_benchmark.BenchmarkSplit(("shapes",), "known")
    monkeypatch.setitem(synthetic_benchmark.BENCHMARK_SPLITS, "new-clips", split)
    monkeypatch.setattr(synthetic_benchmark, "FRAME_RATES", (8,))
    monkeypatch.setattr(synthetic_benchmark, "HEIGHTS", (96, 120))
    asked = list(synthetic_benchmark.benchmark_items("new-clips", 1, 0, tmp_path))
    assert {item.task for item in asked} == set(TASKS)
    for item in asked:
        assert not item.choices or item.answer in item.choices
    clip = read_frames(asked[0].video, frames=4)
    assert len(clip.frames) == 4
    (tmp_path / "again").mkdir()
    (alone,) = synthetic_benchmark.benchmark_items(
        "new-clips", 1, 0, tmp_path / "again", tasks=["count"]
    )
    (among,) = [item for item in asked if item.task == "count"]
    assert (alone.question, alone.answer) == (among.question, among.answer)
    assert alone.video.read_bytes() == among.video.read_bytes()
