"""How many threads to compute with when nobody says."""

from __future__ import annotations

import os

import psutil


def default_threads() -> int:
    """Physical cores, at most as many as this process may use.

    `OMP_NUM_THREADS` is honoured as torch and numpy do it, so that one variable bounds them all.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = min(psutil.cpu_count(logical=False) or 1, usable or 1)
    limit = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if limit.isdecimal() and int(limit) > 0:
        threads = min(threads, int(limit))
    return max(1, threads)
