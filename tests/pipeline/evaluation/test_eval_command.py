"""`reellama eval`: what it writes and records, and for which options."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from reellama.models.bundle import Bundle
from reellama.pipeline.evaluation.accuracy import Accuracy
from reellama.pipeline.evaluation.controls import (
    CONTROLS,
)
from reellama.pipeline.evaluation.report import record_scores
from reellama.pipeline.evaluation.tasks import synthetic_benchmark
from reellama.pipeline.evaluation.tasks.benchmark_tasks import TASKS
from tests.conftest import Result
from tests.pipeline.evaluation.conftest import FEW

pytestmark = pytest.mark.numeric

Run = Callable[..., Result]


def test_figures_go_to_json_to_a_page_and_into_the_bundle(
    reellama: Run, few: Path, small_bundle: Path, tmp_path: Path
) -> None:
    file, page = tmp_path / "found.json", tmp_path / "found.html"
    bundle = shutil.copytree(small_bundle, tmp_path / "bundle")
    result = reellama(
        *("eval", bundle, "--data", few, "--task", "moving direction", "--threads=1"),
        *("--json", file, "--html", page, "--record", "ways", "--frames", "2"),
    )
    assert result.status == 0, result.err
    assert "moving direction" in result.out and "proves nothing" in result.out
    data = json.loads(file.read_text())
    task = data["tasks"]["moving direction"]
    assert task["accuracy"]["of"] == task["questions"] == len(data["answers"]) == FEW
    assert set(task["controls"]) == set(CONTROLS) and task["chance"] == 0.25
    assert "<!doctype html>" in page.read_text()
    kept = Bundle.load(bundle).scores["ways"]
    assert kept["tasks"]["moving direction"] == task
    assert "--task 'moving direction' --frames 2" in kept["command"]


def test_evaluations_that_run_side_by_side_keep_each_other_s_figures(
    small_bundle: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(small_bundle, tmp_path / "bundle")
    one, other = Bundle.load(folder), Bundle.load(folder)
    record_scores(one, "first", {"right": 1})
    record_scores(other, "second", {"right": 2})
    kept = Bundle.load(folder).scores
    assert (kept["first"], kept["second"]) == ({"right": 1}, {"right": 2})


def test_the_drawn_benchmark_is_asked(
    reellama: Run, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        synthetic_benchmark.BENCHMARK_SPLITS,
        "new-clips",
        synthetic_benchmark.BenchmarkSplit(("shapes",), "known"),
    )
    options = (
        "--clips",
        "2",
        "--task",
        "count",
        "--task",
        "camera",
        "--frames",
        "2",
        "--threads",
        "1",
    )
    result = reellama("eval", small_bundle, "--benchmark", *options, "--no-controls", "--json", "-")
    assert result.status == 0, result.err
    data = json.loads(result.out)
    assert set(data["tasks"]) == {"count", "camera"} and data["seed"] == 0
    assert len(data["answers"]) == 4
    assert reellama("eval", small_bundle, "--benchmark", "--task", "juggling").status == 2


def test_no_controls_leaves_controls_out(reellama: Run, few: Path, small_bundle: Path) -> None:
    options = ("--no-controls", "--json", "-", "--frames", "1", "--threads", "1")
    result = reellama("eval", small_bundle, "--data", few, "--task", "way", *options)
    assert result.status == 0, result.err
    assert json.loads(result.out)["tasks"]["way"]["controls"] == {}


@pytest.mark.slow
def test_quantizations_are_asked_the_same(
    reellama: Run, few: Path, small_bundle: Path, smollm2: Path, tmp_path: Path
) -> None:
    from reellama.gguf_tools.quantization.quantize import quantize

    folder = tmp_path / "ggufs"
    folder.mkdir()
    quantize(smollm2, "Q4_0", folder / "small-Q4_0.gguf", n_threads=1)
    (folder / "small-Q4_1.gguf").symlink_to(smollm2)
    options = ("--quantizations", folder, "--plot", tmp_path / "plot", "--json", "-")
    asked = ("--data", few, "--task", "moving direction", "--threads=1", "--frames=2")
    bundle = shutil.copytree(small_bundle, tmp_path / "bundle")
    result = reellama("eval", bundle, *asked, *options, "--record", "types")
    assert result.status == 0, result.err
    rows = json.loads(result.out)["rows"]
    assert Bundle.load(bundle).scores["types"]["rows"] == rows
    assert [row["type"] for row in rows] == ["Q4_1", "Q4_0"]
    assert rows[0]["bits_per_weight"] > rows[1]["bits_per_weight"]
    assert all(row["accuracy"]["of"] == FEW for row in rows)
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
    assert "Q4_0" in (tmp_path / "plot.svg").read_text()


def test_seven_quantizations_and_all_tasks_can_be_read_in_80_columns() -> None:
    from reellama.pipeline.evaluation.quantization_sweep import SWEEP_TYPES, SweepRow, tables

    tasks = {name: Accuracy(number, 20) for number, name in enumerate(TASKS)}
    all_tasks = Accuracy(sum(share.right for share in tasks.values()), 20 * len(tasks))
    rows = [
        SweepRow(Path(f"{name}.gguf"), name, 10**8, 4.5, all_tasks, all_tasks, tasks)
        for name in (*SWEEP_TYPES, "IQ3_XXS")
    ]
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(tables(rows))
    lines = console.export_text().splitlines()
    assert lines[0].split() == ["type", "bits", "MB", "right", "95%", "as", "text"]
    heads = [line.split()[1:] for line in lines if line.startswith("task")]
    assert heads == [list(SWEEP_TYPES), ["IQ3_XXS"]]
    [seven, one] = [line.split() for line in lines if line.startswith("moving direction")]
    share = f"{tasks['moving direction'].value:.0%}"
    assert (seven[2:], one[2:]) == ([share] * 7, [share])


@pytest.mark.parametrize(
    "arguments",
    [
        ("--data", "x.jsonl", "--benchmark"),
        ("--html", "page.html"),
        ("--data", "x.jsonl", "--quantize"),
        ("--benchmark", "--split", "old"),
        ("--benchmark", "--plot", "x"),
        ("--split", "photographs"),
        ("--seed", "1"),
        ("--benchmark", "--style", "noto"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    reellama: Run, arguments: tuple[str, ...]
) -> None:
    assert reellama("eval", "mini", *arguments).status == 2
