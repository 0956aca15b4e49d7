"""Cores and memory that control groups leave to this process, such as those of a container.

`docker run --cpus 2 --memory 4g` shows all cores and all memory of the machine to a program, halts
it when it has used more time than two cores have, and kills it when it takes more memory. Version 2
of control groups and version 1 are read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")  # the groups of this process
# Of version 2 and of version 1: the limit, what is used, and, in `memory.stat`, the part of it that
# holds content of files and is given up when there is need.
MEMORY_FILES = (
    ("memory.max", "memory.current", ("active_file", "inactive_file")),
    (
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_active_file", "total_inactive_file"),
    ),
)


class Memory(NamedTuple):
    """Bytes of memory that there are, and that can be taken."""

    total: int
    available: int


def core_limit() -> float:
    """How many cores' time this process may use; infinity without a limit."""
    limit = math.inf
    for folder in _folders("cpu"):
        words = _read(folder / "cpu.max").split() or [
            _read(folder / "cpu.cfs_quota_us"),
            _read(folder / "cpu.cfs_period_us"),
        ]
        with suppress(ValueError):  # "max", or no such file
            quota, period = map(int, words)
            if quota > 0 and period > 0:  # -1: no limit
                limit = min(limit, quota / period)
    return limit


def usable_memory() -> Memory:
    """The machine's memory, or what the groups of this process leave of it."""
    machine = psutil.virtual_memory()
    total, available = machine.total, machine.available
    for folder in _folders("memory"):
        for limit_name, used_name, file_fields in MEMORY_FILES:
            with suppress(ValueError):
                limit = int(_read(folder / limit_name))
                used = int(_read(folder / used_name))
                fields = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
                reclaimable = sum(int(fields.get(name, 0)) for name in file_fields)
                total = min(total, limit)
                available = min(available, max(0, limit - used + reclaimable))
    return Memory(total, available)


def _folders(controller: str) -> Iterator[Path]:
    """Folders with the files of `controller`: of this process's group, and of those around it.

    The limits of all of them hold. In a container the path may be that of the machine, where only
    the outermost folder is there, and is the container's.
    """
    for line in _read(OWN_GROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            root = GROUPS / controller if controllers else GROUPS
            group = Path(path.lstrip("/"))
            yield from (root / folder for folder in (group, *group.parents))


def _read(path: Path) -> str:
    """The text of a file, empty where it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
