"""Clients that send hostile requests, in a process of their own: what they do costs no good client
its time, beside the server that both ask."""

from __future__ import annotations

import itertools
import multiprocessing
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from benchmarks.helpers.good_requests import Client
from benchmarks.helpers.hostile_kinds import HOSTILE

FIRST_ADDRESS = 16  # good clients have the ones below
N_ADDRESSES = 16
MIN_SECONDS = 0.001  # that a request counts for while it is answered
KINDS = {send.__name__: send for send in HOSTILE}


@dataclass
class HostileResults:
    """What became of hostile requests. sent: how many by kind; slowest: ms by kind; wrong: what
    should not have been."""

    statuses: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    slowest: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, other: HostileResults) -> None:
        """Count what became of others too."""
        self.statuses += other.statuses
        self.sent += other.sent
        self.slowest |= other.slowest
        self.wrong += other.wrong


class FairScheduler:
    """Whose turn it is among kinds of requests: that of the kind that had the least time.

    So each is sent all the time: one that a server refuses at once is sent often, and one that it
    works on for seconds as often as that.
    """

    def __init__(self, kinds: Sequence[str]) -> None:
        self._spent = dict.fromkeys(kinds, 0.0)
        self._begun: list[tuple[str, float]] = []
        self._lock = threading.Lock()

    @contextmanager
    def next(self) -> Iterator[str]:
        """The next kind, which takes as long as this context."""
        with self._lock:
            now = time.perf_counter()
            spent = dict(self._spent)
            for kind, begin in self._begun:
                spent[kind] += now - begin + MIN_SECONDS
            turn = min(self._spent, key=lambda kind: spent[kind]), now
            self._begun.append(turn)
        try:
            yield turn[0]
        finally:
            with self._lock:
                self._begun.remove(turn)
                self._spent[turn[0]] += time.perf_counter() - turn[1]


def send_hostile(
    url: str,
    clip: bytes,
    kinds: Sequence[str],
    numbers: range,
    n_clients: int,
    seconds: float,
    rate: float,
) -> HostileResults:
    """Send these requests from so many clients at once, for so many seconds at most.

    A third of the clients sends one kind after the other without a pause, so that the server
    always works on those that take it long. The others spend the same time on each kind, so that
    what it answers sooner is sent more often: together as much as makes `rate` requests a second.
    """
    results, scheduler, lock = HostileResults(), FairScheduler(kinds), threading.Lock()
    left, kind_after_kind = iter(numbers), itertools.cycle(kinds)
    begin = time.monotonic()
    end = begin + seconds

    def take() -> int | None:
        with lock:
            return next(left, None) if time.monotonic() < end else None

    def send_all_kinds() -> None:
        while (number := take()) is not None:
            with lock:
                kind = next(kind_after_kind)
            _send(url, clip, kind, number, results)

    def fill_up() -> None:
        while (number := take()) is not None:
            due = min(begin + (number - numbers.start) / rate, end)
            time.sleep(max(due - time.monotonic(), 0.0))
            with scheduler.next() as kind:
                _send(url, clip, kind, number, results)

    with ThreadPoolExecutor(n_clients) as clients:
        n_steady = n_clients // 3
        works = [*[send_all_kinds] * n_steady, *[fill_up] * (n_clients - n_steady)]
        for client in [clients.submit(work) for work in works]:
            client.result()
    return results


def _send(url: str, clip: bytes, kind: str, number: int, results: HostileResults) -> None:
    begin = time.perf_counter()
    try:
        with Client(url, clip, FIRST_ADDRESS + number % N_ADDRESSES) as client:
            reply = KINDS[kind](client, random.Random(number))
    except (httpx.LocalProtocolError, httpx.InvalidURL, UnicodeError):
        # A name of a header or an address that the client itself refuses.
        results.statuses["not sent"] += 1
        return
    except httpx.HTTPError as error:
        results.statuses["lost"] += 1
        results.wrong.append(f"{kind} {number}: {error!r}")
        return
    results.sent[kind] += 1
    taken = int(1000 * (time.perf_counter() - begin))
    results.slowest[kind] = max(results.slowest[kind], taken)
    results.statuses[str(reply.status_code) if reply is not None else "cut"] += 1
    if reply is not None and reply.status_code == 500:
        results.wrong.append(f"{kind} {number}: 500 {reply.text[:200]}")


class HostileClients:
    """`send_hostile` in another process."""

    def __init__(self, processes: ProcessPoolExecutor, url: str, clip: bytes, n: int) -> None:
        self._processes, self._url, self._clip, self._n = processes, url, clip, n

    def begin(
        self,
        numbers: range,
        kinds: Sequence[str] = (*KINDS,),
        seconds: float = float("inf"),
        rate: float = float("inf"),
    ) -> Future[HostileResults]:
        """Begin to send; see `send_hostile`."""
        what = self._url, self._clip, kinds, numbers, self._n, seconds, rate
        return self._processes.submit(send_hostile, *what)


@contextmanager
def hostile_clients(url: str, clip: bytes, n: int) -> Iterator[HostileClients]:
    """`n` clients, and the process that they are in."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        # Its module draws pictures as it is imported, which takes seconds: before anything begins.
        processes.submit(HostileResults).result()
        yield HostileClients(processes, url, clip, n)
