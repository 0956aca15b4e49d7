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

TRIM_AFTER_BYTES = (
    64 << 10
)  # bytes of a request's body; what is made of a video is many times as much
# Objects after which Python looks for what can be freed: of few it is soon done, and while it looks
# nobody is answered.
YOUNG = 10_000
SECONDS = 5.0  # until memory is given back; what comes meanwhile is served by the same time


class SpareMemory:
    """Gives memory back some time after large requests, once for all of them."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None

    def took(self, n_bytes: int) -> None:
        """Note that a request had a body of so many bytes. Called in the event loop."""
        if n_bytes >= TRIM_AFTER_BYTES and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SECONDS, self._give_back)

    def _give_back(self) -> None:
        self._timer = None
        asyncio.get_running_loop().run_in_executor(None, _give_back)


def keep_what_is_there() -> None:
    """Look no more for what can be freed among all that there is now: modules and their classes.

    To look through them takes a tenth of a second, in which nobody is answered.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])


def _give_back() -> None:
    for generation in range(3):  # each is a step, after which others may go on
        gc.collect(generation)
    heap.give_back()
