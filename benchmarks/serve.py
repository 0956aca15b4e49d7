"""`reellama serve` against another server: text only, the same GGUF, in one run.

Tokens a second, in total, of 8 clients at once and of one alone, and the time to the first token of
prompts of some 200 tokens, none of them seen before; the two servers take turns. Then: how much
sooner the second question about the same video begins to be answered.

    python -m benchmarks.serve --llama-server PATH       # llama.cpp's own, built from its sources
    pip install 'llama-cpp-python[server]'
    python -m benchmarks.serve                           # llama-cpp-python's
    python -m benchmarks.serve --checkout FOLDER         # an earlier state of this repository

On a machine that has other work, `--threads 1` and the lines "processor time" tell more: tokens by
second of processor time that the server took, prompts and HTTP included.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
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
from typing import NamedTuple

import httpx
import psutil

from reellama.gguf_tools.quantization.merged_llm import MERGED_LLMS, make_merged
from reellama.models.bundle import Bundle

CLIENTS, TOKENS, N_CTX = 8, 64, 1024
TOPICS = ["the sea", "a clock", "two dogs", "bread", "the moon", "a train", "rain", "an old map"]
# Making one takes longer than some answers. No connection is used twice: llama-server closes some.
CLIENT = httpx.Client(timeout=600, limits=httpx.Limits(max_keepalive_connections=0))
EARLIER = "pipeline.cli.main"  # before all was a part of the package `reellama`
PEER, OURS = "the other server", "reellama serve"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def server(
    name: str, arguments: str, port: int, log: Path, folder: Path | None = None
) -> Iterator[Server]:
    """A server in a process of its own, once it answers. folder: whose modules it runs."""
    command = shlex.split(arguments)
    environment = os.environ | ({"PYTHONPATH": str(folder)} if folder else {})
    with (
        log.open("w") as out,
        subprocess.Popen(command, stdout=out, stderr=out, env=environment, cwd=folder) as process,
    ):
        url = f"http://127.0.0.1:{port}"
        try:
            for _ in range(600):
                try:
                    httpx.get(f"{url}/v1/models").raise_for_status()
                    break
                except httpx.HTTPError:
                    if process.poll() is not None:
                        raise SystemExit(f"{name} ended:\n{log.read_text()[-2000:]}") from None
                    time.sleep(0.1)
            yield Server(url, psutil.Process(process.pid))
        finally:
            process.terminate()
            process.wait(30)


class Server(NamedTuple):
    """Where it answers, and its process."""

    url: str
    process: psutil.Process

    def processor_seconds(self) -> float:
        """What it has taken so far."""
        used = self.process.cpu_times()
        return used.user + used.system


def same_gguf() -> Path:
    """The GGUF that `reellama serve` runs: the LLM of `mini` with its adapter merged in."""
    bundle = Bundle.load("mini")
    return make_merged(bundle.llm_path(), bundle.lora, MERGED_LLMS) or bundle.llm_path()


def commands(
    llama_server: Path | None, threads: int | None, checkout: Path | None = None
) -> dict[str, tuple[str, int]]:
    ours, peer = free_port(), free_port()
    python, model = shlex.quote(sys.executable), shlex.quote(str(same_gguf()))
    if llama_server is None:
        other = f"{python} -m llama_cpp.server --model {model} --n_ctx {N_CTX}"
        other += " --interrupt_requests False" + (f" --n_threads {threads}" if threads else "")
        other += f" --host 127.0.0.1 --port {peer}"
    else:
        other = f"{shlex.quote(str(llama_server))} --model {model} -np {CLIENTS}"
        other += f" --ctx-size {N_CTX * CLIENTS}" + (f" --threads {threads}" if threads else "")
        other += f" --host 127.0.0.1 --port {peer}"
    arguments = f"serve --parallel {CLIENTS} --n-ctx {N_CTX} --log-level error"
    arguments += f" --threads {threads}" if threads else ""
    if checkout is not None:
        module = "reellama.pipeline.cli.main" if (checkout / "reellama").exists() else EARLIER
        other = f"{python} -m {module} {arguments} --port {peer}"
    return {
        OURS: (f"{python} -m reellama.pipeline.cli.main {arguments} --port {ours}", ours),
        PEER: (other, peer),
    }


class Answered(NamedTuple):
    """Tokens of an answer, and the seconds until the first."""

    n_tokens: int
    first: float


def ask(url: str, prompt: str) -> Answered:
    """Stream one answer of at most TOKENS tokens."""
    body = {
        "model": "mini",
        "prompt": prompt,
        "max_tokens": TOKENS,
        "temperature": 0,
        "stream": True,
    }
    n, first, begin = 0, 0.0, time.perf_counter()
    with CLIENT.stream("POST", f"{url}/v1/completions", json=body) as reply:
        reply.raise_for_status()
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                choices = json.loads(line[6:])["choices"]
                n += bool(choices and choices[0].get("text"))
                first = first or (n and time.perf_counter() - begin)
    return Answered(n, first)


def prompts(n: int, seed: int) -> list[str]:
    """Prompts of some 200 tokens: as they begin no other does, so that nothing is in a cache."""
    rng = random.Random(seed)
    return [
        f"{rng.random()} {' '.join(rng.choices(TOPICS, k=60))}\nA long story about all these: "
        for _ in range(n)
    ]


def compare(servers: dict[str, Server], n_clients: int, requests: int, rounds: int) -> None:
    """Print both servers' speed and time to the first token, as ratios of what a round measured."""
    rates: dict[str, list[float]] = {name: [] for name in servers}
    costs: dict[str, list[float]] = {name: [] for name in servers}
    firsts: dict[str, list[float]] = {name: [] for name in servers}
    for number in range(rounds):
        for name, server in sorted(servers.items(), reverse=bool(number % 2)):
            asked = prompts(n_clients * requests, 1000 * n_clients + number)
            begin, used = time.perf_counter(), server.processor_seconds()
            with ThreadPoolExecutor(n_clients) as clients:
                answers = list(clients.map(lambda prompt, url=server.url: ask(url, prompt), asked))
            n_tokens = sum(each.n_tokens for each in answers)
            rates[name].append(n_tokens / (time.perf_counter() - begin))
            costs[name].append(n_tokens / (server.processor_seconds() - used))
            firsts[name].append(statistics.median(each.first for each in answers))
    measured = (
        ("speed", rates, "tokens/s"),
        ("processor time", costs, "tokens/s"),
        ("first token", firsts, "s"),
    )
    for what, found, unit in measured:
        ours, peer = (statistics.median(found[name]) for name in (OURS, PEER))
        ratios = [a / b for a, b in zip(found[OURS], found[PEER], strict=True)]
        print(
            f"{n_clients} at once, {what}: {ours:.2f} {unit} against {peer:.2f}, "
            f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
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
    parser.add_argument("--llama-server", type=Path, help="llama.cpp's server, to compare with")
    parser.add_argument("--checkout", type=Path, help="an earlier state to compare with")
    parser.add_argument("--threads", type=int, help="of both servers, else each one's default")
    parser.add_argument("--no-video", action="store_true", help="leave out questions about a video")
    options = parser.parse_args()
    rounds = options.rounds
    print(f"medians of {rounds} rounds, the servers by turns")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = {
            name: stack.enter_context(
                server(
                    *(name, command, port, folder / f"{port}.log"),
                    options.checkout if name == PEER else None,
                )
            )
            for name, (command, port) in commands(
                options.llama_server, options.threads, options.checkout
            ).items()
        }
        for each in servers.values():
            ask(each.url, "Once")
        compare(servers, 1, 2, rounds)
        compare(servers, CLIENTS, 1, rounds)
        if not options.no_video:
            second_question(servers[OURS].url, make_video, rounds)


if __name__ == "__main__":
    main()
