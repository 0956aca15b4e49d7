"""The default number of threads."""

from __future__ import annotations

import math
import os

import psutil

from reellama.gguf_tools.cgroups import core_limit


def usable_cores() -> int:
    """Logical cores that this process may use, by its affinity and the quota of its groups.

    A part of a core counts as one: threads that a quota halts are halted together, so that none
    waits for another.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return math.ceil(min(cores or 1, core_limit()))


def default_threads() -> int:
    """The number of physical cores, at most of those that this process may use.

    `OMP_NUM_THREADS` is an upper bound, as in torch and numpy.
    """
    threads = min(psutil.cpu_count(logical=False) or 1, usable_cores())
    limit = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if limit.isdecimal() and int(limit) > 0:
        threads = min(threads, int(limit))
    return max(1, threads)
