"""Memory that large requests took and freed goes back to the machine.

Python frees what refers to itself, such as an error and the call that it ended, only once there is
much of it, and a body may hang on each. glibc keeps what was freed between what is still in use, an
arena for each thread that ever read a body: after many large requests the process stays as large as
if they were still there.
"""

from __future__ import annotations

import asyncio
import gc

from reellama.gguf_tools import heap

# Memory is trimmed after a request whose body is as large as this: the arrays that are made of a
# video take many times as much.
TRIM_AFTER_BYTES = 64 << 10
# New objects after which Python looks for garbage among them: with few it is soon done, and while
# it looks, no request is answered.
GC_THRESHOLD = 10_000
TRIM_SECONDS = 5.0  # after a large body; those that come meanwhile are trimmed with it


class MemoryTrimmer:
    """Gives memory back some time after large requests, once for all of them."""

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
    """Leave all objects of now, modules and their classes, out of garbage collection.

    To look through them takes a tenth of a second, in which nobody is answered.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, *gc.get_threshold()[1:])


def _trim() -> None:
    for generation in range(3):  # each is a step, after which others may go on
        gc.collect(generation)
    heap.trim_heap()
