"""`reellama cache` shows what is kept on the disk, and removes it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from reellama.models.array_cache import ArrayCache
from tests.conftest import Result
from tests.helpers.terminal import REELLAMA

# By name, for other tests of this run use the cache of this process meanwhile.
FRAMES, STATES, FEATURES = "encoded-frames", "read-prompts", "trunk-features"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache with a file of each of three kinds."""
    ArrayCache(tmp_path / FRAMES).write("a", rows=np.zeros(10, np.float32))
    ArrayCache(tmp_path / STATES).write("a", state=np.zeros(10, np.uint8))
    (tmp_path / FEATURES).mkdir()
    np.save(tmp_path / FEATURES / "a.npy", np.zeros(10, np.float32))
    return tmp_path


def cache(folder: Path, *arguments: str) -> Result:
    """What `reellama cache` says of the cache in `folder`."""
    env = {**os.environ, "REELLAMA_CACHE": str(folder), "COLUMNS": "200"}
    ended = subprocess.run(
        [*REELLAMA, "cache", *arguments], env=env, capture_output=True, text=True, check=False
    )
    return Result(ended.returncode, ended.stdout, ended.stderr)


def test_folders_are_shown_with_their_limits(folder: Path) -> None:
    (folder / STATES / "gone").symlink_to("nowhere")  # as what another command removes just now
    shown = cache(folder)
    assert shown.status == 0 and "videos that were looked at" in shown.out
    assert str(folder / FRAMES) in shown.out and str(folder / STATES) in shown.out
    assert "1.0 GiB" in shown.out
    assert str(folder / "merged-llms") in shown.out and "2.0 GiB" in shown.out


def test_files_are_removed(folder: Path) -> None:
    cleared = cache(folder, "clear")
    assert cleared.status == 0 and "3 files removed" in cleared.err
    assert not [file for file in folder.rglob("*") if file.is_file()]
    assert "0 files removed" in cache(folder, "clear").err


def test_another_word_is_refused(folder: Path) -> None:
    wrong = cache(folder, "burn")
    assert wrong.status == 2 and "neither show nor clear" in wrong.err
    assert len(list(folder.rglob("*.np?"))) == 3
