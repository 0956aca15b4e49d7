"""How many threads to compute with: as many as there are cores that other programs leave free.

Threads of one computation wait for each other after every operation of the graph, some hundred
times a token. Where one shares its core with another program, all wait until that program has had
its turn: two threads beside one busy process are several times slower than one thread
(`python -m benchmarks.first_word` measures it). To wait without spinning takes from a quiet machine
what the second thread gains. So the number follows the load, and computations of this process that
last at the same time share the cores.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import psutil

from reellama.gguf_tools.threads import default_threads

# Seconds between two looks at the load. The system counts in hundredths: a core's use is then known
# to some 4%.
PERIOD = 0.25
# A core counts as free when others use no more than this share of it: then a second thread still
# gains more than it loses.
TOLERATED_LOAD = 0.25
# Seconds that a long computation waits for short ones: longer than a decode that generates tokens.
MAX_WAIT_SECONDS = 0.1


@dataclass(frozen=True)
class CoreUse:
    """What the clocks say at one moment, in seconds.

    now: of a clock that never goes back. idle: how long the cores that this process may use had
    nothing to do, in all. own: processor time of this process. n_cores: the number of these cores.
    """

    now: float
    idle: float
    own: float
    n_cores: int

    @classmethod
    def read(cls) -> CoreUse:
        """Read the clocks now."""
        cores = psutil.cpu_times(percpu=True)
        if hasattr(os, "sched_getaffinity"):
            usable = os.sched_getaffinity(0)
            # Where some cores are switched off their numbers have gaps, and all are counted.
            if max(usable) < len(cores):
                cores = [cores[number] for number in usable]
        idle = sum(core.idle + getattr(core, "iowait", 0.0) for core in cores)
        return cls(time.monotonic(), idle, time.process_time(), len(cores))


def cores_left(before: CoreUse, after: CoreUse) -> float:
    """How many cores were idle or used by this process in between, 0 to `n_cores`."""
    seconds = after.now - before.now
    if seconds <= 0:
        return float(after.n_cores)
    left = (after.idle - before.idle + after.own - before.own) / seconds
    return min(max(left, 0.0), float(after.n_cores))


def threads_for(cores: float, max_threads: int) -> int:
    """How many threads fit on the free cores: at least one, at most `max_threads`."""
    return max(1, min(max_threads, math.floor(cores + TOLERATED_LOAD)))


class FreeCores:
    """The number of threads that the load leaves room for; it looks again every PERIOD seconds.

    Threads of this process that compute at the same time share the cores.
    """

    def __init__(self) -> None:
        self._before = CoreUse.read()
        self._threads: int | None = None
        self._looking = threading.Lock()
        self._computing: Counter[int] = Counter()  # by thread, how deep
        self._short: set[object] = set()  # short computations, whose threads stay until they end
        self._short_ended = threading.Condition()

    def threads(self) -> int:
        """As many as can compute without waiting for another program, at most `default_threads`.

        Before anything is known of the load, all of them.
        """
        with self._looking:
            if time.monotonic() - self._before.now >= PERIOD:
                before, self._before = self._before, CoreUse.read()
                self._threads = threads_for(cores_left(before, self._before), default_threads())
        return default_threads() if self._threads is None else self._threads

    @contextmanager
    def long_computation(self) -> Iterator[None]:
        """Mark a computation that lasts, such as encoding frames: short ones that begin meanwhile
        get fewer threads.

        Waits for the short ones that are under way, MAX_WAIT_SECONDS at most.
        """
        with self._marked():
            with self._short_ended:
                before = {*self._short}
                self._short_ended.wait_for(lambda: before.isdisjoint(self._short), MAX_WAIT_SECONDS)
            yield

    @contextmanager
    def short_computation(self) -> Iterator[int]:
        """Mark a computation that is over soon, such as decoding a batch, and yield how many
        threads it shall use."""
        own = object()
        with self._marked():
            self._short.add(own)
            try:
                yield max(1, self.threads() // len(self._computing))
            finally:
                with self._short_ended:
                    self._short.remove(own)
                    self._short_ended.notify_all()

    @contextmanager
    def _marked(self) -> Iterator[None]:
        thread = threading.get_ident()
        with self._short_ended:
            self._computing[thread] += 1
        try:
            yield
        finally:
            with self._short_ended:
                self._computing[thread] -= 1
                if not self._computing[thread]:
                    del self._computing[thread]


# Made when this module is imported, so that the load is known by the time that a model is loaded.
_free_cores = FreeCores()


def free_threads() -> int:
    """How many threads fit beside other programs now."""
    return _free_cores.threads()


def long_computation() -> AbstractContextManager[None]:
    """Mark a computation of this process that lasts: see FreeCores.long_computation."""
    return _free_cores.long_computation()


def short_computation() -> AbstractContextManager[int]:
    """Mark a short computation of this process and yield how many threads it shall use.

    See FreeCores.short_computation; cheap enough for every token.
    """
    return _free_cores.short_computation()
