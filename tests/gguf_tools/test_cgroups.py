"""Threads and memory keep within what a container may use, by files of both versions of cgroups."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from reellama.gguf_tools import cgroups
from reellama.gguf_tools.cgroups import Memory, core_limit, usable_memory
from reellama.gguf_tools.locate.mmproj_choice import memory_size
from reellama.gguf_tools.threads import default_threads, usable_cores

GIB = 1 << 30
STAT = f"anon {GIB}\nactive_file {GIB // 4}\ninactive_file {GIB // 4}\nshmem 4096\n"
STAT_V1 = f"cache 7\nrss {GIB}\ntotal_active_file {GIB // 4}\ntotal_inactive_file {GIB // 4}\n"
NO_LIMIT_V1 = "9223372036854771712"
Groups = Callable[[str, Mapping[str, str]], None]


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Groups:
    """Write what /proc/self/cgroup says, and the files below /sys/fs/cgroup."""
    monkeypatch.setattr(cgroups, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(cgroups, "GROUPS", tmp_path / "groups")
    machine = SimpleNamespace(total=64 * GIB, available=32 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 32)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {*range(32)}, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def write(own: str, files: Mapping[str, str]) -> None:
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/\n", {}, math.inf),
        ("", {}, math.inf),
        ("0::/a:b/c\n", {"a:b/cpu.max": "150000 100000", "a:b/c/cpu.max": "max 100000"}, 1.5),
        ("0::/a/b\n", {"cpu.max": "300000 100000", "a/b/cpu.max": "50000 100000"}, 0.5),
        (
            "3:cpu,cpuacct:/docker/1\n2:cpuset:/x\n0::/y\n",  # the path of the machine
            {"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            4,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
    ],
)
def test_threads_keep_within_the_quota(
    groups: Groups, own: str, files: Mapping[str, str], cores: float
) -> None:
    groups(own, files)
    assert core_limit() == cores
    assert default_threads() == usable_cores() == min(32, math.ceil(min(cores, 32)))


@pytest.mark.parametrize(
    ("own", "files", "memory"),
    [
        (
            "0::/a\n",
            {
                "a/memory.max": f"{4 * GIB}\n",
                "a/memory.current": f"{2 * GIB}\n",
                "a/memory.stat": STAT,
            },
            Memory(4 * GIB, 5 * GIB // 2),
        ),
        (
            "0::/\n",
            {"memory.max": "max\n", "memory.current": f"{GIB}\n"},
            Memory(64 * GIB, 32 * GIB),
        ),
        ("0::/\n", {}, Memory(64 * GIB, 32 * GIB)),
        (
            "4:memory:/docker/1\n",
            {
                "memory/memory.limit_in_bytes": f"{4 * GIB}\n",
                "memory/memory.usage_in_bytes": f"{2 * GIB}\n",
                "memory/memory.stat": STAT_V1,
            },
            Memory(4 * GIB, 5 * GIB // 2),
        ),
        (
            "4:memory:/\n",
            {
                "memory/memory.limit_in_bytes": NO_LIMIT_V1,
                "memory/memory.usage_in_bytes": f"{2 * GIB}\n",
                "memory/memory.stat": STAT_V1,
            },
            Memory(64 * GIB, 32 * GIB),
        ),
        (
            "0::/\n",
            {"memory.max": f"{GIB}\n", "memory.current": f"{2 * GIB}\n", "memory.stat": ""},
            Memory(GIB, 0),
        ),
    ],
)
def test_memory_is_what_the_group_has(
    groups: Groups, own: str, files: Mapping[str, str], memory: Memory
) -> None:
    groups(own, files)
    assert usable_memory() == memory
    assert memory_size() == memory.total


def test_the_groups_of_this_machine_are_read() -> None:
    memory = usable_memory()
    assert 0 < memory.available <= memory.total <= psutil.virtual_memory().total
    assert core_limit() > 0 and 1 <= default_threads() < core_limit() + 1
