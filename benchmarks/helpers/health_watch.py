"""How long a server's /healthz takes, asked again and again from a process of its own: what other
clients of a benchmark do costs it no time."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from multiprocessing.connection import Connection
from urllib.parse import urlsplit

EVERY = 0.1  # seconds from one answer to the next question


@dataclass
class Health:
    """Seconds that each answer took, and what was wrong with some."""

    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Health) -> None:
        """What was found at another time too."""
        self.seconds += other.seconds
        self.wrong += other.wrong

    def told(self) -> str:
        """Milliseconds: the median, what 1% took longer than, the longest."""
        ranked = sorted(self.seconds)
        chosen = ranked[len(ranked) // 2], ranked[int(0.99 * len(ranked))], ranked[-1]
        return " / ".join(f"{1000 * seconds:.0f}" for seconds in chosen)


class Watch:
    """What the process that asks has found."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def since_last(self) -> Health:
        """What was found since this was last called."""
        self._pipe.send(None)
        found: Health = self._pipe.recv()
        return found


@contextmanager
def watching(url: str) -> Iterator[Watch]:
    """Ask a server for its health, all the time."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_watch, args=(url, theirs), daemon=True)
    process.start()
    try:
        yield Watch(ours)
    finally:
        process.terminate()
        process.join()


def _watch(url: str, pipe: Connection) -> None:
    place = urlsplit(url)
    server = HTTPConnection(place.hostname or "", place.port, timeout=60)
    health = Health()
    while True:
        if pipe.poll(EVERY):
            pipe.recv()
            pipe.send(health)
            health = Health()
        begin = time.perf_counter()
        try:
            server.request("GET", "/healthz")
            reply = server.getresponse()
            if reply.read() != b'{"status":"ok"}':
                health.wrong.append(f"/healthz: {reply.status}")
        except (OSError, HTTPException) as error:
            health.wrong.append(f"/healthz: {error!r}")
            server.close()
        health.seconds.append(time.perf_counter() - begin)
