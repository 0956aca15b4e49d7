"""Does any request hurt another? Hostile ones of every kind, mixed with good ones, from 16 clients.

    python -m benchmarks.hostile_requests --requests 100000
    python -m benchmarks.hostile_requests --each 12       # each kind by itself, for so many seconds

A quarter of the clients sends good requests all the time: first alone, then beside the others, then
alone again. Every good one must be answered, none may wait 5 s longer than the slowest without the
hostile ones; every hostile one must be answered too, never with a status of 500; memory must end
within 10% of where it stood before; /healthz, asked from a process of its own, must answer within
100 ms; and threads must be as they were.

A third of the hostile clients sends one kind after the other without a pause, and waits for what
the server works on for seconds; the others send what it answers sooner, up to so many requests a
second in all as --rate says.

Before memory is measured the server rests, longer than it waits until it gives memory back.
"""

from __future__ import annotations

import argparse
import itertools
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from benchmarks.helpers.good_requests import GOOD, Client, video
from benchmarks.helpers.health_watch import Health, Watch, watching
from benchmarks.helpers.hostile_clients import (
    KINDS,
    HostileClients,
    HostileResults,
    hostile_clients,
)

N_CLIENTS = 16
N_GOOD = N_CLIENTS // 4
MAX_EXTRA_SECONDS = 5.0  # by which hostile requests may make the longest wait longer
MAX_MEMORY_RATIO = 1.10  # memory after all hostile requests over that after the first ones
MAX_HEALTH_SECONDS = 0.1  # until /healthz answers
SETTLE = 0.05  # of the hostile requests are sent before memory is first measured
N_ROUNDS = 4  # of the others, after each of which it is measured
REST = 10.0  # seconds before that

Waits = dict[str, list[float]]  # by kind of good request, seconds until one was answered


class GoodClients:
    """Send good requests, and note what went wrong, and how long answers took."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.clips = [video(number) for number in range(N_GOOD)]
        self.wrong: list[str] = []
        self.numbers = itertools.count()

    def ask(self, n: int, waits: Waits) -> None:
        """`n` requests from all clients."""
        with ThreadPoolExecutor(N_GOOD) as clients:
            list(clients.map(lambda i: self._send(i, i % N_GOOD, waits), range(n)))

    def keep_asking(self, meanwhile: Future[HostileResults], waits: Waits) -> HostileResults:
        """Send requests for as long as something lasts."""

        def ask(client_number: int) -> None:
            for number in itertools.count(client_number):
                if meanwhile.done():
                    break
                self._send(number, client_number, waits)

        with ThreadPoolExecutor(N_GOOD) as clients:
            asking = [clients.submit(ask, client_number) for client_number in range(N_GOOD)]
            for each in asking:
                each.result()
        return meanwhile.result()

    def _send(self, number: int, client_number: int, waits: Waits) -> None:
        send = GOOD[number % len(GOOD)]
        rng = random.Random(next(self.numbers))
        begin = time.perf_counter()
        try:
            with Client(self.url, self.clips[client_number], client_number) as client:
                reply = send(client, rng)
        except httpx.HTTPError as error:
            self.wrong.append(f"{send.__name__}: {error!r}")
            return
        waits.setdefault(send.__name__, []).append(time.perf_counter() - begin)
        if reply is None or reply.status_code != 200:
            self.wrong.append(f"{send.__name__}: {reply and (reply.status_code, reply.text[:200])}")


@contextmanager
def served(arguments: list[str]) -> Iterator[tuple[str, psutil.Process, subprocess.Popen[str]]]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "reellama.pipeline.cli.main", "serve", "--port", "0"]
        command += ["--log-level", "error", "--n-ctx", "1024", "--store", folder, *arguments]
        log = Path(folder) / "log"
        with (
            log.open("w") as errors,
            subprocess.Popen(command, stderr=errors, text=True) as process,
        ):
            try:
                while not (found := re.search(r"http://\S+", log.read_text())):
                    assert process.poll() is None, "the server did not start"
                    time.sleep(0.1)
                yield found[0], psutil.Process(process.pid), process
                print(log.read_text()[-3000:])
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(30)


def longest(waits: Waits) -> float:
    return max(max(each) for each in waits.values())


def compare(alone: Waits, beside: Waits) -> float:
    """Print waits of good requests by kind; returns how much longer the longest became."""
    print(f"{'seconds, median / longest':<28}{'alone':>16}{'beside hostile ones':>24}")
    for kind in sorted(alone):
        both = [waits.get(kind, []) for waits in (alone, beside)]
        told = [f"{statistics.median(w):.2f} / {max(w):.2f}" if w else "-" for w in both]
        print(f"{kind:<28}{told[0]:>16}{told[1]:>24}")
    return longest(beside) - longest(alone)


def memory(process: psutil.Process) -> int:
    """Bytes that a server and its children hold."""
    return sum(each.memory_info().rss for each in [process, *process.children(recursive=True)])


def rest(server: psutil.Process, told_as: str) -> int:
    """Bytes that the server and its children have after a rest, which are printed."""
    time.sleep(REST)
    taken, own = memory(server), server.memory_info().rss
    children = f"{(taken - own) / 1e6:.0f} of {len(server.children(recursive=True))} children"
    print(
        f"memory {told_as}: {taken / 1e6:.0f} MB, {own / 1e6:.0f} of it the server's own, "
        f"{children}; {server.num_threads()} threads",
        flush=True,
    )
    return taken


def each_kind(
    good: GoodClients,
    hostile: HostileClients,
    watch: Watch,
    server: psutil.Process,
    kinds: Sequence[str],
    seconds: float,
) -> HostileResults:
    """Each kind of hostile request by itself: a table."""
    results = HostileResults()
    print(f"{'':<18}{'sent':>6}{'good':>6}{'alone':>8}{'beside':>16}{'health, ms':>16}{'MB':>8}")
    for kind in kinds:
        alone: Waits = {}
        waits: Waits = {}
        good.ask(2 * len(GOOD), alone)
        watch.since_last()
        found = good.keep_asking(hostile.begin(range(10**6), [kind], seconds), waits)
        health = watch.since_last()
        good.wrong += health.wrong
        every = [wait for each in waits.values() for wait in each]
        beside = f"{statistics.median(every):.2f} / {max(every):.2f}"
        print(
            f"{kind:<18}{found.statuses.total():>6}{len(every):>6}{longest(alone):>8.2f}"
            f"{beside:>16}{health.told():>16}{memory(server) / 1e6:>8.0f}  {dict(found.statuses)}",
            flush=True,
        )
        results.add(found)
    return results


def report(
    alone: Waits, beside: Waits, health: Mapping[str, Health], results: HostileResults
) -> float:
    """Print what came of a campaign; returns how much longer the longest wait became."""
    print(f"{results.statuses.total()} hostile requests, {dict(results.statuses)}")
    print("of each kind:", dict(results.sent.most_common()))
    print(f"{sum(map(len, beside.values()))} good ones beside them")
    longer = compare(alone, beside)
    late = longest(alone) + MAX_EXTRA_SECONDS
    n_late = sum(wait > late for each in beside.values() for wait in each)
    print(
        f"the longest wait is {longer:+.2f} s longer beside them; {n_late} waited over {late:.1f} s"
    )
    for when, found in health.items():
        print(f"/healthz {when}, ms: {found.told()}")
    print("slowest kinds, ms:", dict(results.slowest.most_common(6)))
    return longer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000, help="hostile ones")
    parser.add_argument("--rate", type=float, default=30.0, help="of them a second, at most")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="at most")
    parser.add_argument("--alone", type=int, default=44, help="good ones, before and after")
    parser.add_argument("--each", type=float, help="seconds for each kind by itself")
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS], default=[*KINDS])
    parser.add_argument("--seed", type=int, default=0)
    options, rest_of = parser.parse_known_args()
    with served(rest_of) as (url, server, process):
        good = GoodClients(url)
        clients = hostile_clients(url, good.clips[0], N_CLIENTS - N_GOOD)
        with clients as hostile, watching(url) as watch:
            good.ask(2 * len(GOOD), {})  # loads what is needed
            if options.each:
                results = each_kind(good, hostile, watch, server, options.kinds, options.each)
                fine = True
            else:
                results, fine = campaign(good, hostile, watch, server, options)
        healthy = httpx.get(f"{url}/healthz", timeout=5).status_code == 200
        alive = process.poll() is None
    wrong = good.wrong + results.wrong
    print(f"healthy: {healthy}; {len(wrong)} went wrong", *wrong[:20], sep="\n")
    sys.exit(not (fine and not wrong and healthy and alive))


def campaign(
    good: GoodClients,
    hostile: HostileClients,
    watch: Watch,
    server: psutil.Process,
    options: argparse.Namespace,
) -> tuple[HostileResults, bool]:
    """All kinds mixed; whether waits, health and memory are within their bounds."""
    alone: Waits = {}
    beside: Waits = {}
    health = {"alone": Health(), "beside them": Health()}
    good.ask(options.alone, alone)
    quiet: Future[HostileResults] = Future()
    threading.Timer(5, lambda: quiet.set_result(HostileResults())).start()
    watch.since_last()
    results = good.keep_asking(quiet, alone)
    health["alone"].add(watch.since_last())

    def send(begin: int, end: int) -> None:
        numbers = range(options.seed + begin, options.seed + end)
        seconds = 60 * options.minutes / (N_ROUNDS + 1)
        watch.since_last()
        found = hostile.begin(numbers, options.kinds, seconds, options.rate)
        results.add(good.keep_asking(found, beside))
        health["beside them"].add(watch.since_last())

    n = options.requests
    settled = round(SETTLE * n)
    send(0, settled)
    before = after = rest(server, f"after {settled} hostile requests")
    ends = [settled + (n - settled) * i // N_ROUNDS for i in range(N_ROUNDS + 1)]
    for begin, end in itertools.pairwise(ends):
        send(begin, end)
        after = rest(server, f"after {results.statuses.total()}")
    good.ask(options.alone, alone)
    longer = report(alone, beside, health, results)
    print(f"memory {after / before - 1:+.1%}")
    good.wrong += [wrong for found in health.values() for wrong in found.wrong]
    sound = max(health["beside them"].seconds) <= MAX_HEALTH_SECONDS
    return results, sound and longer <= MAX_EXTRA_SECONDS and after <= MAX_MEMORY_RATIO * before


if __name__ == "__main__":
    main()
