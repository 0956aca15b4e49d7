"""A file that replaces another has its permissions; a new one has those that the umask leaves."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from reellama.gguf_tools.atomic_write import write_atomically
from reellama.gguf_tools.errors import ReellamaError


@pytest.fixture
def _umask_of_a_group() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_umask_of_a_group")
def test_permissions_are_set_without_a_change_of_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(_: int) -> int:
        raise AssertionError  # files that other threads make meanwhile would be for everybody

    monkeypatch.setattr(os, "umask", changed)
    path = tmp_path / "file"
    write_atomically(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    for mode in (0o600, 0o444, 0o666):
        path.chmod(mode)
        write_atomically(path, f"{mode}")
        assert path.read_text() == f"{mode}" and stat.S_IMODE(path.stat().st_mode) == mode
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ReellamaError, match="cannot save"):
        write_atomically(tmp_path / "missing" / "file", "new")
    with pytest.raises(ReellamaError, match="not a file"):
        write_atomically(tmp_path, "new")
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "old"
