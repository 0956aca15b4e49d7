"""docs/tour.md, typed into a Python shell: every stage alone, and what it prints."""

import doctest
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.numeric

TOUR = Path(__file__).parents[1] / "docs/tour.md"


def test_the_tour_prints_what_it_says(
    demo_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(demo_video, tmp_path / "demo.mp4")
    monkeypatch.chdir(tmp_path)
    found = doctest.testfile(str(TOUR), module_relative=False, encoding="utf-8")
    assert found.attempted > 30
    assert found.failed == 0
