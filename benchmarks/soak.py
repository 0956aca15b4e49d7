"""1,000 requests from 16 clients, a tenth of them broken, against `reellama serve`.

Every good one must be answered, every bad one must get a 4xx with a reason, the server's memory
must end within 10% of where it stood after the first 100, and no process may be left behind.

    python benchmarks/soak.py
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import av
import httpx
import numpy as np
import psutil

WARM = 100  # requests before memory is first measured
WORDS = ["sea", "clock", "dog", "bread", "moon", "train", "rain", "map", "door", "lamp"]


def video(number: int) -> bytes:
    """A second or so of a square on grey: another one for each number."""
    rng = np.random.default_rng(number)
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        with av.open(file.name, "w") as container:
            stream = container.add_stream("libx264", rate=12)
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            colour = rng.integers(0, 255, 3)
            for i in range(12):
                picture = np.full((240, 320, 3), 128, np.uint8)
                picture[90:150, 16 * i : 16 * i + 60] = colour
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            container.mux(stream.encode(None))
        return Path(file.name).read_bytes()


def huge_png() -> bytes:
    """A picture of 100,000 x 100,000 pixels, as its header says."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


class Client:
    """Sends requests of all kinds, and counts unexpected answers."""

    def __init__(self, url: str, videos: list[bytes]) -> None:
        self.url, self.videos = url, videos
        self.http = httpx.Client(timeout=300)
        self.wrong: list[str] = []
        self.kinds: Counter[str] = Counter()

    def send(self, number: int) -> None:
        rng = random.Random(number)
        kind = self._bad if number % 10 == 5 else self._good
        try:
            kind(rng, number)
        except Exception as error:  # noqa: BLE001  # any failure is counted
            self.wrong.append(f"{number}: {error!r}")

    def _good(self, rng: random.Random, number: int) -> None:
        question = f"{number}: say something about the {rng.choice(WORDS)}."
        message: dict = {"role": "user", "content": question}
        if rng.random() < 0.3:
            clip = base64.b64encode(rng.choice(self.videos)).decode()
            message = {"role": "user", "content": "What happens?", "images": [clip]}
        body: dict = {"model": "mini", "messages": [message], "options": {"num_predict": 8}}
        body["stream"] = rng.random() < 0.5
        reply = self._post(body)
        self.kinds["good"] += 1
        last = json.loads(reply.text.splitlines()[-1])
        if reply.status_code != 200 or not last["done"] or not last["eval_count"]:
            self.wrong.append(f"{number}: {reply.status_code} {reply.text[:200]}")

    def _post(self, body: dict) -> httpx.Response:
        """Send, and again after a while when the queue is full."""
        while True:
            reply = self.http.post(f"{self.url}/api/chat", json=body)
            if reply.status_code != 503:
                return reply
            self.kinds["busy"] += 1
            time.sleep(float(reply.headers["Retry-After"]))

    def _bad(self, rng: random.Random, number: int) -> None:
        name = ("base64", "truncated", "bomb", "pixels", "json", "cut")[number // 10 % 6]
        self.kinds[name] += 1
        if name == "cut":
            return self._hang_up(rng)
        media = {
            "base64": "@@not base64@@",
            "truncated": base64.b64encode(rng.choice(self.videos)[:900]).decode(),
            "bomb": base64.b64encode(zlib.compress(b"\0" * 50_000_000)).decode(),
            "pixels": base64.b64encode(huge_png()).decode(),
        }
        if name == "json":
            reply = self.http.post(f"{self.url}/api/chat", content=b'{"model": "mini", "mess')
        else:
            message = {"role": "user", "content": "?", "images": [media[name]]}
            reply = self._post({"model": "mini", "messages": [message]})
        if not 400 <= reply.status_code < 500 or not reply.json()["error"]:
            self.wrong.append(f"{number} ({name}): {reply.status_code} {reply.text[:200]}")
        return None

    def _hang_up(self, rng: random.Random) -> None:
        """Disconnect in the middle of a request or an answer."""
        body = json.dumps({"model": "mini", "messages": [{"role": "user", "content": "Go on."}]})
        said = len(body) if rng.random() < 0.5 else len(body) + 1000
        head = f"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {said}\r\n\r\n"
        place = urlsplit(self.url)
        with socket.create_connection((str(place.hostname), place.port or 0)) as connection:
            connection.sendall((head + body).encode())
            time.sleep(rng.random() / 2)


def memory(process: psutil.Process) -> int:
    return sum(each.memory_info().rss for each in [process, *process.children(recursive=True)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=16)
    options = parser.parse_args()
    command = [sys.executable, "-m", "reellama.pipeline.cli.main", "serve", "--port", "0"]
    command += ["--log-level", "error", "--n-ctx", "1024"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = re.search(r"http://\S+", process.stderr.readline())
        assert found, "the server did not start"
        client = Client(found[0], [video(number) for number in range(20)])
        server = psutil.Process(process.pid)
        with ThreadPoolExecutor(options.clients) as clients:
            list(clients.map(client.send, range(WARM)))
            before, begin = memory(server), time.perf_counter()
            list(clients.map(client.send, range(WARM, options.requests)))
        seconds = time.perf_counter() - begin
        time.sleep(2)
        after, children = memory(server), server.children(recursive=True)
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        errors = process.stderr.read()
    print(f"{options.requests} requests, {dict(client.kinds)}")
    print(f"{(options.requests - WARM) / seconds:.1f} requests/s after the first {WARM}")
    print(f"memory {before / 1e6:.0f} MB, then {after / 1e6:.0f} MB: {after / before - 1:+.1%}")
    print(f"{len(client.wrong)} went wrong, {len(children)} processes left behind")
    print(*client.wrong[:10], errors[-2000:], sep="\n")
    good = not client.wrong and not children and after <= 1.1 * before and not errors
    sys.exit(not good)


if __name__ == "__main__":
    main()
