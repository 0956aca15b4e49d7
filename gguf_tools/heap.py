"""Return freed memory to the operating system, with glibc's malloc_trim and mallopt."""

from __future__ import annotations

import ctypes
import sys

M_MMAP_THRESHOLD = -3  # of glibc's mallopt
LARGE = 1 << 20  # bytes


def set_mmap_threshold() -> None:
    """Make glibc return every large block to the system when it is freed. For servers.

    By default, glibc keeps freed blocks for each thread, which are many in a server. A program that
    answers once should not call this: to allocate the blocks of each layer of a network again costs
    a tenth of the time to the first word, and glibc keeps only some ten megabytes. Does nothing
    with other C libraries.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, LARGE)


def trim_heap() -> None:
    """Make glibc return the free pages that it keeps, which takes some milliseconds.

    Loading a network allocates and frees arrays of its size, of which glibc would keep half. Does
    nothing with other C libraries.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
