"""Arrays on disk by key: found again, kept within bounds, and lost without harm."""

import os
from pathlib import Path

import numpy as np
import pytest

from reellama.models.array_cache import ArrayCache

ARRAY = np.arange(250, dtype=np.float32)  # 1,000 bytes, and some 250 of a file around them


def test_what_was_written_is_read(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path / "new folder")
    assert cache.read("a") is None
    cache.write("a", rows=ARRAY, times=np.array([0.5]))
    found = ArrayCache(tmp_path / "new folder").read("a")
    assert found is not None and set(found) == {"rows", "times"}
    np.testing.assert_array_equal(found["rows"], ARRAY)


def test_the_least_recently_used_array_is_removed_first(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path, limit=3000)
    for age, key in enumerate("ab"):
        cache.write(key, rows=ARRAY)
        os.utime(tmp_path / f"{key}.npz", (age, age))
    assert cache.read("a") is not None  # which makes "b" the older one
    cache.write("c", rows=ARRAY)
    assert [cache.read(key) is not None for key in "abc"] == [True, False, True]


def test_least_recently_used_order_holds_within_one_clock_tick(tmp_path: Path) -> None:
    for round_ in range(30):  # each takes less than the four milliseconds that a tick may last
        cache = ArrayCache(tmp_path / str(round_), limit=3000)
        cache.write("a", rows=ARRAY)
        cache.write("b", rows=ARRAY[:200])  # smaller, which is no reason to keep it
        assert cache.read("a") is not None
        cache.write("c", rows=ARRAY)
        assert [cache.read(key) is not None for key in "abc"] == [True, False, True]


def test_an_array_larger_than_the_limit_is_not_kept(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path, limit=999)
    cache.write("a", rows=ARRAY)
    assert list(tmp_path.iterdir()) == []


def test_a_second_scan_finds_the_first_arrays_of_one_that_was_too_long(tmp_path: Path) -> None:
    other = ArrayCache(tmp_path, limit=20_000)
    for i in range(9):
        other.write(f"older {i}", rows=ARRAY)

    def scan() -> list[bool]:
        cache = ArrayCache(tmp_path, limit=20_000, for_scans=True)
        found = []
        for i in range(40):
            found.append(cache.read(str(i)) is not None)
            if not found[-1]:
                cache.write(str(i), rows=ARRAY)
        return found

    assert scan() == [False] * 40
    assert sum(scan()) == sum(scan()[:14]) >= 12
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 20_000
    assert other.read("older 0") is None, "what is older makes room"


@pytest.mark.parametrize("damage", ["cut off", "not numbers", "not a file of arrays"])
def test_a_damaged_file_is_forgotten(tmp_path: Path, damage: str) -> None:
    cache, path = ArrayCache(tmp_path), tmp_path / "a.npz"
    cache.write("a", rows=np.full(9, np.nan) if damage == "not numbers" else ARRAY)
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[:-99])
    elif damage == "not a file of arrays":
        path.write_text("Buy milk.")
    assert cache.read("a") is None and not path.exists()


def test_a_folder_that_cannot_be_made_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = ArrayCache(tmp_path / "file" / "folder")
    cache.write("a", rows=ARRAY)
    assert cache.read("a") is None
