"""`reellama serve` against llama-cpp-python's own server: text only, the same GGUF, in one run.

Tokens a second, in total, of 8 clients at once and of one alone; the two servers take turns.
Then: how much sooner the second question about the same video begins to be answered.

    pip install 'llama-cpp-python[server]'
    python benchmarks/serve.py
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from reellama.gguf_tools.locate import find

CLIENTS, TOKENS = 8, 64
TOPICS = ["the sea", "a clock", "two dogs", "bread", "the moon", "a train", "rain", "an old map"]
CLIENT = httpx.Client(timeout=600)  # making one takes longer than some answers
PEER, OURS = "llama-cpp-python's server", "reellama serve"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def server(name: str, arguments: str, port: int, log: Path) -> Iterator[str]:
    """A server in a process of its own, once it answers; gives its address."""
    command = [sys.executable, *shlex.split(arguments)]
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            for _ in range(600):
                try:
                    httpx.get(f"{url}/v1/models")
                    break
                except httpx.TransportError:
                    if process.poll() is not None:
                        raise SystemExit(f"{name} ended:\n{log.read_text()[-2000:]}") from None
                    time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait(30)


def commands(model: Path) -> dict[str, tuple[str, int]]:
    ours, peer = free_port(), free_port()
    return {
        OURS: (
            (
                f"-m reellama.pipeline.cli.main serve --port {ours} --parallel {CLIENTS} "
                "--n-ctx 1024 "
                "--log-level error"
            ),
            ours,
        ),
        PEER: (
            (
                f"-m llama_cpp.server --model {shlex.quote(str(model))} --port {peer} "
                "--host 127.0.0.1 --n_ctx 1024 --interrupt_requests False"
            ),
            peer,
        ),
    }


def ask(url: str, topic: str) -> int:
    """Stream one answer of at most TOKENS tokens; returns how many came."""
    body = {
        "model": "mini",
        "messages": [{"role": "user", "content": f"Write a long story about {topic}."}],
        "max_tokens": TOKENS,
        "temperature": 0,
        "stream": True,
    }
    n = 0
    with CLIENT.stream("POST", f"{url}/v1/chat/completions", json=body) as reply:
        reply.raise_for_status()
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                choices = json.loads(line[6:])["choices"]
                n += bool(choices and choices[0]["delta"].get("content"))
    return n


def tokens_a_second(url: str, n_clients: int, requests: int) -> float:
    topics = [TOPICS[i % len(TOPICS)] for i in range(n_clients * requests)]
    begin = time.perf_counter()
    with ThreadPoolExecutor(n_clients) as clients:
        total = sum(clients.map(lambda topic: ask(url, topic), topics))
    return total / (time.perf_counter() - begin)


def compare(urls: dict[str, str], n_clients: int, requests: int, rounds: int) -> None:
    rates: dict[str, list[float]] = {name: [] for name in urls}
    for _ in range(rounds):
        for name, url in urls.items():
            rates[name].append(tokens_a_second(url, n_clients, requests))
    ours, peer = (statistics.median(rates[name]) for name in (OURS, PEER))
    ratios = [a / b for a, b in zip(rates[OURS], rates[PEER], strict=True)]
    print(
        f"{n_clients} at once: {ours:.1f} tokens/s against {peer:.1f}, "
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def first_token(url: str, video: bytes, question: str) -> float:
    """Seconds until the first token of an answer about a video, with its way to the server."""
    message = {"role": "user", "content": question, "images": [base64.b64encode(video).decode()]}
    body = json.dumps({"model": "mini", "messages": [message]})
    begin = time.perf_counter()
    with CLIENT.stream("POST", f"{url}/api/chat", content=body) as reply:
        next(reply.iter_lines())
        return time.perf_counter() - begin


def second_question(url: str, make: Callable[[Path, int], None], rounds: int) -> None:
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 1):
            path = Path(folder) / f"{number}.mp4"
            make(path, number)
            video = path.read_bytes()
            first = first_token(url, video, "What happens in the video?")
            second = first_token(url, video, "Which way does it move?")
            if number:  # the very first one loads the tower
                ratios.append(first / second)
                print(f"  first {first:.3f} s, second {second:.3f} s")
    print(f"second question about a video: {statistics.median(ratios):.1f} times sooner")


def make_video(path: Path, number: int) -> None:
    """Ten seconds of 720p: a square that moves over a ground that no earlier run has drawn."""
    import av
    import numpy as np

    rng = np.random.default_rng([time.time_ns(), number])
    ground = rng.integers(0, 255, (720, 1280, 3)).astype(np.uint8) // 4 + 90
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for i in range(300):
            picture = ground.copy()
            picture[300:420, 3 * i : 3 * i + 120] = (220, 30, 30)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    version = re.sub(r"\s.*", "", sys.version)
    print(f"Python {version}; medians of {rounds} rounds, the servers by turns")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = {
            name: stack.enter_context(server(name, command, port, folder / f"{port}.log"))
            for name, (command, port) in commands(find.resolve("mini-llm")).items()
        }
        for url in urls.values():
            tokens_a_second(url, 1, 1)
        compare(urls, 1, 2, rounds)
        compare(urls, CLIENTS, 1, rounds)
        second_question(urls[OURS], make_video, rounds)


if __name__ == "__main__":
    main()
