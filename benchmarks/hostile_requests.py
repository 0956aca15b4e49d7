"""Does any request hurt another? Hostile ones of every kind, mixed with good ones, from 16 clients.

    python benchmarks/hostile_requests.py --requests 100000

A quarter of the clients sends good requests all the time: first alone, then beside the others, then
alone again. Every good one must be answered, none may wait 5 s longer than the slowest without the
attack; every hostile one must be answered too, never with a status of 500; memory must end within
10% of where it stood before, and health and threads must be as they were.
"""

from __future__ import annotations

import argparse
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from benchmarks.bad_requests import HOSTILE
from benchmarks.good_requests import GOOD, Sending
from benchmarks.soak import memory, video

N_CLIENTS = 16
SHARE_GOOD = 4  # of these clients one of so many is good
MOST_LONGER = 5.0  # seconds
MOST_MEMORY = 1.10
SETTLE = 200  # hostile requests before memory is first measured


class Campaign:
    """Sends, and notes what went wrong and how long good requests took."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.clips = [video(number) for number in range(4)]
        self.wrong: list[str] = []
        self.waits: dict[str, list[float]] = {}  # by kind, seconds until a good one was answered
        self.statuses: Counter[str] = Counter()
        self.slowest: Counter[str] = Counter()

    def good(self, number: int, client: int) -> None:
        rng = random.Random(number)
        send = GOOD[number % len(GOOD)]
        begin = time.perf_counter()
        try:
            with Sending(self.url, self.clips[client % len(self.clips)], client) as to:
                reply = send(to, rng)
        except httpx.HTTPError as error:
            self.wrong.append(f"good {send.__name__}: {error!r}")
            return
        self.waits.setdefault(send.__name__, []).append(time.perf_counter() - begin)
        if reply.status_code != 200:
            self.wrong.append(f"good {send.__name__}: {reply.status_code} {reply.text[:200]}")

    def hostile(self, number: int) -> None:
        rng = random.Random(number)
        send = HOSTILE[number % len(HOSTILE)]
        begin = time.perf_counter()
        try:
            with Sending(self.url, self.clips[0], N_CLIENTS + number % N_CLIENTS) as to:
                reply = send(to, rng)
        except httpx.HTTPError as error:
            # A name of a header or an address that the client itself refuses.
            local = isinstance(error, httpx.LocalProtocolError | httpx.InvalidURL)
            self.statuses["not sent" if local else "lost"] += 1
            if not local:
                self.wrong.append(f"{send.__name__} {number}: {error!r}")
            return
        except (httpx.InvalidURL, UnicodeError):
            self.statuses["not sent"] += 1
            return
        taken = int(1000 * (time.perf_counter() - begin))
        self.slowest[send.__name__] = max(self.slowest[send.__name__], taken)
        self.statuses[str(reply.status_code) if reply is not None else "cut"] += 1
        if reply is not None and reply.status_code == 500:
            self.wrong.append(f"{send.__name__} {number}: 500 {reply.text[:200]}")

    def attack(self, n: int, n_good: int, seed: int) -> None:
        """`n` hostile requests, and good ones from `n_good` clients for as long as these last."""
        over = threading.Event()

        def keep_asking(client: int) -> None:
            number = client
            while not over.is_set():
                self.good(number, client)
                number += n_good

        with ThreadPoolExecutor(N_CLIENTS) as clients:
            asking = [clients.submit(keep_asking, client) for client in range(n_good)]
            with ThreadPoolExecutor(N_CLIENTS - n_good) as attackers:
                list(attackers.map(self.hostile, range(seed, seed + n)))
            over.set()
            for each in asking:
                each.result()


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


def compare(alone: dict[str, list[float]], beside: dict[str, list[float]]) -> float:
    """Print waits of good requests by kind; returns how much longer the longest became."""
    print(f"{'seconds, median / longest':<28}{'alone':>16}{'beside hostile ones':>24}")
    for kind in sorted(alone):
        both = [waits.get(kind, []) for waits in (alone, beside)]
        told = [f"{statistics.median(w):.2f} / {max(w):.2f}" if w else "-" for w in both]
        print(f"{kind:<28}{told[0]:>16}{told[1]:>24}")
    longest = [max(max(each) for each in waits.values()) for waits in (alone, beside)]
    return longest[1] - longest[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000, help="hostile ones")
    parser.add_argument("--alone", type=int, default=40, help="good ones, before and after")
    parser.add_argument("--seed", type=int, default=0)
    options, rest = parser.parse_known_args()
    n_good = N_CLIENTS // SHARE_GOOD
    with served(rest) as (url, server, process):
        run = Campaign(url)
        with ThreadPoolExecutor(n_good) as clients:
            list(clients.map(lambda i: run.good(i, i), range(len(GOOD))))  # loads what is needed
            alone: dict[str, list[float]] = {}
            run.waits = alone
            list(clients.map(lambda i: run.good(i, i % n_good), range(options.alone)))
        beside: dict[str, list[float]] = {}
        run.waits = beside
        settle = min(SETTLE, options.requests // 2)
        run.attack(settle, n_good, options.seed)
        time.sleep(2)
        before, threads = memory(server), server.num_threads()
        begin = time.perf_counter()
        run.attack(options.requests - settle, n_good, options.seed + settle)
        seconds = time.perf_counter() - begin
        time.sleep(3)
        after, threads_after = memory(server), server.num_threads()
        healthy = httpx.get(f"{url}/healthz", timeout=5).status_code == 200
        run.waits = alone
        with ThreadPoolExecutor(n_good) as clients:
            list(clients.map(lambda i: run.good(i, i % n_good), range(options.alone)))
        children = server.children(recursive=True)
        alive = process.poll() is None
    n_beside = sum(map(len, beside.values()))
    print(f"{options.requests} hostile requests, {dict(run.statuses)}, {seconds:.0f} s")
    print(f"{n_beside} good ones beside them, {sum(map(len, alone.values()))} alone")
    longer = compare(alone, beside)
    print(f"the longest wait is {longer:+.2f} s longer beside them")
    print(f"memory {before / 1e6:.0f} MB, then {after / 1e6:.0f} MB: {after / before - 1:+.1%}")
    print(f"threads {threads}, then {threads_after}; {len(children)} processes; healthy: {healthy}")
    print("slowest kinds, ms:", dict(run.slowest.most_common(6)))
    print(f"{len(run.wrong)} went wrong", *run.wrong[:20], sep="\n")
    fine = not run.wrong and longer <= MOST_LONGER and after <= MOST_MEMORY * before
    sys.exit(not (fine and healthy and alive))


if __name__ == "__main__":
    main()
