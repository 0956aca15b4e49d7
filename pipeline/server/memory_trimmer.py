"""Returns memory to the operating system after large requests.

Python frees reference cycles, such as an exception and its frames, only when its garbage collector
runs, and a request's body may hang on each. glibc keeps freed memory in its arenas, of which each
thread that parses bodies has one. So after many large requests the process would stay as large as
if they were still there.
"""

from __future__ import annotations

import asyncio
import gc

from reellama.gguf_tools import heap

# Memory is trimmed after a request with a body of at least this size: the arrays of a decoded video
# take many times as much.
TRIM_AFTER_BYTES = 64 << 10
# New objects after which a garbage collection starts. No request is answered meanwhile, and with
# few objects it is short.
GC_THRESHOLD = 10_000
TRIM_SECONDS = 5.0  # from a large body until the trimming, one for all that come meanwhile


class MemoryTrimmer:
    """Trims memory a while after large requests, once for all of them."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None

    def note_body(self, n_bytes: int) -> None:
        """Note that a request had a body of `n_bytes`. Called in the event loop."""
        if n_bytes >= TRIM_AFTER_BYTES and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TRIM_SECONDS, self._start_trimming)

    def _start_trimming(self) -> None:
        self._timer = None
        asyncio.get_running_loop().run_in_executor(None, _trim)


def freeze_startup_objects() -> None:
    """Exempt all present objects, modules and their classes, from garbage collection.

    To traverse them takes a tenth of a second, in which no request is answered.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, *gc.get_threshold()[1:])


def _trim() -> None:
    for generation in range(3):  # in steps, between which other threads run
        gc.collect(generation)
    heap.trim_heap()
