"""Return freed memory to the operating system, with glibc's malloc_trim and mallopt."""

from __future__ import annotations

import ctypes
import sys

M_MMAP_THRESHOLD = -3  # of glibc's mallopt
LARGE = 1 << 20  # bytes


def set_mmap_threshold() -> None:
    """Let glibc give every large block back when it is freed; does nothing with other C libraries.

    By itself glibc soon keeps all but the largest for later: in a server many, of many threads. A
    program that answers once is better off without this function: to take memory again for each
    layer of a network costs a tenth of the time to the first word, and what glibc keeps is some ten
    megabytes.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, LARGE)


def trim_heap() -> None:
    """Let glibc return the free pages that it keeps for later, in some milliseconds.

    Does nothing with other C libraries. Loading a network makes and frees arrays of its size: half
    of what they took would stay.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
