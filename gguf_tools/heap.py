"""What the C library keeps of memory that was freed, given back to the machine."""

from __future__ import annotations

import ctypes
import sys

M_MMAP_THRESHOLD = -3  # of glibc's mallopt
LARGE = 1 << 20  # bytes


def return_large_blocks() -> None:
    """Let glibc give every large block back when it is freed. Nothing elsewhere.

    By itself it soon keeps all but the largest, for the next time. In a server they are many, of
    many threads. In a program that answers once it pays: memory that comes anew for each layer of a
    network takes a tenth of the time to the first word, and what is kept is some ten megabytes.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, LARGE)


def give_back() -> None:
    """Let glibc return free pages, which it keeps for later; some milliseconds. Nothing elsewhere.

    Loading a network makes and frees arrays of its size: half of what they took would stay.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
