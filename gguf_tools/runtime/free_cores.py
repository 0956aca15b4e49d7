"""The number of threads to compute with: the cores that other programs leave free.

Threads of one computation wait for each other after every operation of the graph, some hundred
times a token. If one of them shares its core with another program, all wait for that program's time
slice: two threads beside one busy process are several times slower than one thread
(`python -m benchmarks.first_word` measures this). Waiting without spinning costs an idle machine
all that the second thread gains. So the number of threads follows the load, and concurrent
computations of this process share the cores.
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

# Seconds between measurements of the load. The system counts processor time in hundredths of a
# second, so a core's load is known to some 4%.
PERIOD = 0.25
# A core counts as free if other programs use at most this share of it: up to there a second thread
# gains more than it loses.
TOLERATED_LOAD = 0.25
# Seconds that a long computation waits for short ones: longer than the decoding of a token.
MAX_WAIT_SECONDS = 0.1


@dataclass(frozen=True)
class CoreUse:
    """Readings of the system's clocks at one moment, in seconds."""

    now: float  # of a monotonic clock
    idle: float  # total idle time of the cores that this process may use
    own: float  # processor time of this process
    n_cores: int  # cores that this process may use

    @classmethod
    def read(cls) -> CoreUse:
        """Read the clocks now."""
        cores = psutil.cpu_times(percpu=True)
        if hasattr(os, "sched_getaffinity"):
            usable = os.sched_getaffinity(0)
            # If some cores are offline the numbers have gaps, and then all cores are counted.
            if max(usable) < len(cores):
                cores = [cores[number] for number in usable]
        idle = sum(core.idle + getattr(core, "iowait", 0.0) for core in cores)
        return cls(time.monotonic(), idle, time.process_time(), len(cores))


def cores_left(before: CoreUse, after: CoreUse) -> float:
    """Cores that were idle or used by this process between two readings, 0 to `n_cores`."""
    seconds = after.now - before.now
    if seconds <= 0:
        return float(after.n_cores)
    left = (after.idle - before.idle + after.own - before.own) / seconds
    return min(max(left, 0.0), float(after.n_cores))


def threads_for(cores: float, max_threads: int) -> int:
    """The number of threads for so many free cores: at least 1, at most `max_threads`."""
    return max(1, min(max_threads, math.floor(cores + TOLERATED_LOAD)))


class FreeCores:
    """The number of threads that the load leaves room for, measured again every PERIOD seconds.

    Threads of this process that compute at the same time share the cores.
    """

    def __init__(self) -> None:
        self._last_use = CoreUse.read()
        self._threads: int | None = None  # None until the load was measured
        self._measuring = threading.Lock()
        self._computing: Counter[int] = Counter()  # nested computations by thread
        self._short: set[object] = set()  # short computations under way
        self._short_ended = threading.Condition()

    def threads(self) -> int:
        """The number of threads that other programs leave cores for, at most `default_threads`.

        It is `default_threads` until the load was measured.
        """
        with self._measuring:
            if time.monotonic() - self._last_use.now >= PERIOD:
                before, self._last_use = self._last_use, CoreUse.read()
                self._threads = threads_for(cores_left(before, self._last_use), default_threads())
        return default_threads() if self._threads is None else self._threads

    @contextmanager
    def long_computation(self) -> Iterator[None]:
        """A context for a long computation, such as encoding frames.

        Short computations that begin within it get fewer threads. Those under way are waited for
        first, MAX_WAIT_SECONDS at most.
        """
        with self._marked():
            with self._short_ended:
                before = {*self._short}
                self._short_ended.wait_for(lambda: before.isdisjoint(self._short), MAX_WAIT_SECONDS)
            yield

    @contextmanager
    def short_computation(self) -> Iterator[int]:
        """A context for a short computation, such as decoding a batch, with its thread count."""
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


# Made at import, so that the load is known by the time that a model is loaded.
_free_cores = FreeCores()


def free_threads() -> int:
    """The number of threads that other programs leave cores for now."""
    return _free_cores.threads()


def long_computation() -> AbstractContextManager[None]:
    """A context for a long computation of this process: see FreeCores.long_computation."""
    return _free_cores.long_computation()


def short_computation() -> AbstractContextManager[int]:
    """A context for a short computation of this process, with its thread count.

    It is cheap enough for every token. See FreeCores.short_computation.
    """
    return _free_cores.short_computation()
