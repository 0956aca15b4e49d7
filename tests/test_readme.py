"""The README says what `scores.json` of `mini` has kept of the benchmark, and what was tried."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SPLITS = ("new-clips",)
TASKS = {
    "moving direction, 8 ways": "moving direction",
    "action": "action",
    "action order": "action order",
    "how the scene changes": "scene transition",
    "colour": "attribute",
    "is it there?": "object existence",
    "position": "position",
    "count, 1 to 5": "count",
    "how many move": "moving count",
    "camera: pans, zooms, still": "camera",
    "which one moves": "which moves",
    "which one is faster": "speed",
    "where what changed places ends": "object shuffle",
    "name it, of 619 kinds, open answer": "object naming",
}
SCORES = json.loads((ROOT / "models/bundles/mini/scores.json").read_text())
README = (ROOT / "README.md").read_text()


def row(label: str) -> list[str]:
    """The cells of a table's line after the first, without bold and intervals."""
    (line,) = re.findall(rf"^\| \**{re.escape(label)}\** \| (.*) \|$", README, re.M)
    return [re.sub(r"\*| \(.*\)", "", cell).strip() for cell in line.split("|")]


@pytest.mark.parametrize("label", TASKS)
def test_every_task_of_the_table_has_the_score_that_was_measured(label: str) -> None:
    for split, cell in zip(SPLITS, row(label), strict=False):
        score = SCORES[split]["tasks"].get(TASKS[label])
        assert cell == (f"{score['accuracy']['share']:.0%}" if score else "")


def test_the_means_are_those_of_the_tasks_with_choices() -> None:
    means = [f"{SCORES[split]['mean']['accuracy']:.1%}" for split in SPLITS]
    assert row("mean of these")[: len(SPLITS)] == means


def test_the_table_says_how_many_questions_there_were() -> None:
    (asked,) = {task["questions"] for split in SPLITS for task in SCORES[split]["tasks"].values()}
    assert f"of {asked} questions each" in README
    assert all(f"--clips {asked} " in SCORES[split]["command"] for split in SPLITS)


def test_no_older_pyav_is_installed_than_was_tried() -> None:
    (lowest,) = re.findall(r'"av>=(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert row("PyAV")[0].startswith(f"{lowest}, ")
