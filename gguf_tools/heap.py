"""What the C library keeps of memory that was freed, given back to the machine."""

from __future__ import annotations

import ctypes
import sys


def give_back() -> None:
    """Let glibc return free pages, which it keeps for later; some milliseconds. Nothing elsewhere.

    Loading a network makes and frees arrays of its size: half of what they took would stay.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
