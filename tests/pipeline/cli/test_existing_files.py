"""What is there already is not written over, unless --force says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.conftest import Result

Run = Callable[..., Result]


def is_refused(result: Result, path: Path) -> bool:
    said = f"reellama: {path} exists; --force replaces it\n"
    return (result.status, result.err, path.read_text()) == (1, said, "precious")


def test_a_demo_video_replaces_no_file(reellama: Run, tmp_path: Path) -> None:
    mine = tmp_path / "mine.mp4"
    mine.write_text("precious")
    assert is_refused(reellama("demo-video", mine), mine)
    assert reellama("demo-video", mine, "--force").status == 0
    assert mine.read_bytes()[4:8] == b"ftyp"


def test_a_page_replaces_no_file_and_is_said_when_it_is_written(
    reellama: Run, tmp_path: Path, square_video: Path, small_bundle: Path
) -> None:
    page = tmp_path / "page.html"
    inspect = ("inspect", square_video, "--bundle", small_bundle, "--html", page)
    page.write_text("precious")
    assert is_refused(reellama(*inspect), page)
    written = reellama(*inspect, "--force")
    assert (written.status, written.out) == (0, "")
    assert f"{page}: " in written.err and "soft tokens" in written.err
    assert "<html" in page.read_text()


def test_a_page_for_no_folder_is_refused_before_the_video_is_looked_at(
    reellama: Run, tmp_path: Path
) -> None:
    result = reellama("inspect", tmp_path / "no.mp4", "--html", tmp_path / "nowhere" / "x.html")
    assert result.status == 1 and "there is no folder" in result.err
