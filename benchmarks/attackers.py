"""Clients that send hostile requests, in a process of their own: what they do costs no good client
its time, beside the server that both ask."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from benchmarks.bad_requests import HOSTILE
from benchmarks.good_requests import Sending

FIRST_ADDRESS = 16  # good clients have the ones below
N_ADDRESSES = 16
KINDS = {send.__name__: send for send in HOSTILE}


@dataclass
class Fate:
    """What became of hostile requests. slowest: ms by kind; wrong: what should not have been."""

    statuses: Counter[str] = field(default_factory=Counter)
    slowest: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Fate) -> None:
        """Count what became of others too."""
        self.statuses += other.statuses
        self.slowest |= other.slowest
        self.wrong += other.wrong


def attack(
    url: str, clip: bytes, kinds: Sequence[str], numbers: range, n_clients: int, seconds: float
) -> Fate:
    """Send these requests from so many clients at once, for so many seconds at most."""
    fate, end = Fate(), time.monotonic() + seconds

    def send(number: int) -> None:
        if time.monotonic() < end:
            _send(url, clip, kinds[number % len(kinds)], number, fate)

    with ThreadPoolExecutor(n_clients) as clients:
        list(clients.map(send, numbers))
    return fate


def _send(url: str, clip: bytes, kind: str, number: int, fate: Fate) -> None:
    begin = time.perf_counter()
    try:
        with Sending(url, clip, FIRST_ADDRESS + number % N_ADDRESSES) as to:
            reply = KINDS[kind](to, random.Random(number))
    except (httpx.LocalProtocolError, httpx.InvalidURL, UnicodeError):
        # A name of a header or an address that the client itself refuses.
        fate.statuses["not sent"] += 1
        return
    except httpx.HTTPError as error:
        fate.statuses["lost"] += 1
        fate.wrong.append(f"{kind} {number}: {error!r}")
        return
    taken = int(1000 * (time.perf_counter() - begin))
    fate.slowest[kind] = max(fate.slowest[kind], taken)
    fate.statuses[str(reply.status_code) if reply is not None else "cut"] += 1
    if reply is not None and reply.status_code == 500:
        fate.wrong.append(f"{kind} {number}: 500 {reply.text[:200]}")


class Attackers:
    """`attack` in another process."""

    def __init__(self, processes: ProcessPoolExecutor, url: str, clip: bytes, n: int) -> None:
        self._processes, self._url, self._clip, self._n = processes, url, clip, n

    def begin(
        self, numbers: range, kinds: Sequence[str] = (*KINDS,), seconds: float = float("inf")
    ) -> Future[Fate]:
        """Begin to send."""
        what = self._url, self._clip, kinds, numbers, self._n, seconds
        return self._processes.submit(attack, *what)


@contextmanager
def attackers(url: str, clip: bytes, n: int) -> Iterator[Attackers]:
    """`n` clients, and the process that they are in."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        yield Attackers(processes, url, clip, n)
