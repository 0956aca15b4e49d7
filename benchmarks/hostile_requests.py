"""Does any request hurt another? Hostile ones of every kind, mixed with good ones, from 16 clients.

    python benchmarks/hostile_requests.py --requests 100000

A quarter of the clients sends good requests all the time: first alone, then beside the others.
Every good one must be answered, none may wait 5 s longer than the slowest before the attack; every
hostile one must be answered too, never with a status of 500; memory must end within 10% of where it
stood before, and health and threads must be as they were.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
from PIL import Image

from benchmarks.soak import huge_png, memory, video

N_CLIENTS = 16
SHARE_GOOD = 4  # of these clients one of so many is good
MOST_LONGER = 5.0  # seconds
MOST_MEMORY = 1.10
SETTLE = 200  # hostile requests before memory is first measured
MESSAGE = [{"role": "user", "content": "Say something."}]

Sender = Callable[["Sending", random.Random], httpx.Response | None]


class Sending:
    """A client of the server, and what it keeps of it."""

    def __init__(self, url: str, clip: bytes, number: int) -> None:
        self.url, self.clip = url, base64.b64encode(clip).decode()
        # An address of its own, by which the server shares its places; Linux answers to all these.
        transport = httpx.HTTPTransport(local_address=f"127.0.0.{2 + number}")
        self.http = httpx.Client(timeout=300, transport=transport)

    def __enter__(self) -> Sending:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        """Send a body: JSON, or bytes as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.http.post(f"{self.url}{path}", content=content, **more)

    def generate(self, **fields: Any) -> httpx.Response:
        options = {"num_predict": 2, **fields.pop("options", {})}
        asked = {"model": "mini", "prompt": "Go.", "stream": False, "options": options}
        return self.post("/api/generate", asked | fields)

    def chat(self, **fields: Any) -> httpx.Response:
        asked = {"model": "mini", "messages": MESSAGE, "max_tokens": 2}
        return self.post("/v1/chat/completions", asked | fields)

    def show(self, data: bytes, **fields: Any) -> httpx.Response:
        packed = base64.b64encode(data).decode()
        message = {"role": "user", "content": "?", "images": [packed], **fields}
        return self.post("/api/chat", {"model": "mini", "messages": [message], "stream": False})


def schema(**fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": fields}}


def parts(*found: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*found, {"type": "text", "text": "?"}]}]


def gif(side: int, n_frames: int) -> bytes:
    """An animation that is small as a file and large as pixels."""
    frames = [Image.new("P", (side, side), i) for i in range(n_frames)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=100)
    return file.getvalue()


BOMB = gif(4000, 40)
TOP_KS: list[Any] = [-(10**30), 10**30, "x", None, []]


def good_chat(to: Sending, rng: random.Random) -> httpx.Response:
    return to.chat(seed=rng.randrange(99), max_tokens=8)


def good_generate(to: Sending, rng: random.Random) -> httpx.Response:
    return to.generate(prompt=f"{rng.random()}: a word", options={"num_predict": 8})


def good_stream(to: Sending, rng: random.Random) -> httpx.Response:
    asked = {"model": "mini", "messages": MESSAGE, "options": {"num_predict": 8}}
    return to.post("/api/chat", asked)


def good_schema(to: Sending, rng: random.Random) -> httpx.Response:
    return to.chat(response_format=schema(enum=["red", "blue"]), max_tokens=8)


def good_video(to: Sending, rng: random.Random) -> httpx.Response:
    message = {"role": "user", "content": "What happens?", "images": [to.clip]}
    asked = {"model": "mini", "messages": [message], "stream": False}
    return to.post("/api/chat", asked | {"options": {"num_predict": 8}})


def good_message(to: Sending, rng: random.Random) -> httpx.Response:
    return to.post("/v1/messages", {"model": "mini", "max_tokens": 8, "messages": MESSAGE})


def good_response(to: Sending, rng: random.Random) -> httpx.Response:
    asked = {"model": "mini", "input": "Say something.", "max_output_tokens": 8, "store": False}
    return to.post("/v1/responses", asked)


GOOD: list[Callable[[Sending, random.Random], httpx.Response]] = [
    *(good_chat, good_generate, good_stream, good_schema, good_video),
    *(good_message, good_response),
]


def half_character(to: Sending, rng: random.Random) -> httpx.Response:
    return to.generate(options={"stop": ["\ud800"]})


def broken_pattern(to: Sending, rng: random.Random) -> httpx.Response:
    pattern = rng.choice(["^*+?$", "^a]b)$", "^((a*)*)*b$", "^(a|a)*$", "^[^a", "^a{9999}{9999}$"])
    return to.chat(response_format=schema(type="string", pattern=pattern))


def endless_schema(to: Sending, rng: random.Random) -> httpx.Response:
    big: dict[str, Any] = {"type": "array", "items": {}, "minItems": 10**6}
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(300):
        deep = {"type": "array", "items": deep}
    wide = {"enum": [f"{i:06d}" for i in range(20_000)]}
    return to.generate(format=rng.choice([big, deep, wide, {"type": "string", "minLength": 10**9}]))


def sampling_values(to: Sending, rng: random.Random) -> httpx.Response:
    bad: list[dict[str, Any]] = [
        {"repeat_last_n": 2147483647, "repeat_penalty": 1.1},
        *({"temperature": x} for x in (float("nan"), float("inf"), -5, 1e300)),
        *({"top_k": x} for x in TOP_KS),
        *({"seed": x} for x in (2**63, -(2**63), 2**80)),
        *({"num_ctx": x} for x in (-1, 0, 2**40)),
    ]
    return to.generate(options=rng.choice(bad))


def keep_alive(to: Sending, rng: random.Random) -> httpx.Response:
    return to.generate(keep_alive=rng.choice([1e300, "999999999h", "soon", float("nan"), [], "5m"]))


def biases(to: Sending, rng: random.Random) -> httpx.Response:
    bad: list[dict[str, Any]] = [
        {"x": 1},
        {"5": 1e9},
        {str(2**40): 1},
        {str(i): 1 for i in range(5000)},
    ]
    return to.chat(logit_bias=rng.choice(bad))


def many_choices(to: Sending, rng: random.Random) -> httpx.Response:
    return to.chat(n=rng.choice([0, -1, 10**9]))


def long_conversation(to: Sending, rng: random.Random) -> httpx.Response:
    said = [{"role": ("user", "assistant")[i % 2], "content": "hi"} for i in range(20_001)]
    return to.chat(messages=said)


def long_prompt(to: Sending, rng: random.Random) -> httpx.Response:
    return to.generate(prompt="word " * rng.choice([700, 10**6]))


def template(to: Sending, rng: random.Random) -> httpx.Response:
    bad = [
        "{{ (10**60000000) % 7 }}",
        "{{ 'x'*500000000 }}",
        "{% for a in range(10**9) %}{% endfor %}",
    ]
    return to.generate(template=rng.choice([*bad, "{{ .Prompt }}", "{{ ''.__class__ }}", "{% if"]))


def many_stops(to: Sending, rng: random.Random) -> httpx.Response:
    return to.chat(stop=rng.choice([["x"] * 10**6, ["x" * 10**6], [""], [1], "\0"]))


def addresses(to: Sending, rng: random.Random) -> httpx.Response:
    bad = [
        "http://[::1",
        "http://127.0.0.1:1/a",
        "file:///etc/passwd",
        "ftp://a",
        "data:,",
        "\ud800",
        "",
    ]
    return to.chat(messages=parts({"type": "image_url", "image_url": rng.choice(bad)}))


def bad_model(to: Sending, rng: random.Random) -> httpx.Response:
    made = {"model": f"made-{rng.randrange(4)}", "from": "mini"}
    bad: list[dict[str, Any]] = [
        {"template": "{{ .Prompt }}"},
        {"parameters": {"temperature": "hot"}},
        {"from": "/etc/passwd"},
    ]
    return to.post("/api/create", made | rng.choice(bad))


def bombs(to: Sending, rng: random.Random) -> httpx.Response:
    clip = base64.b64decode(to.clip)
    cut = clip[: rng.randrange(len(clip))]
    flipped = bytearray(clip)
    for _ in range(40):
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    lists = b"#EXTM3U\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n"
    return to.show(rng.choice([BOMB, huge_png(), cut, bytes(flipped), *lists, bytes(2 << 20)]))


def own_frames(to: Sending, rng: random.Random) -> httpx.Response:
    times = rng.choice([[0], [1, 0], [float("nan")], [-1, 0], list(range(5000)), [1e308, 2e308]])
    video_part = {"type": "input_video", "images": [to.clip[:400]] * 2, "times": times}
    return to.chat(messages=parts(video_part))


def files(to: Sending, rng: random.Random) -> httpx.Response:
    if rng.random() < 0.5:
        name = rng.choice(["../../x", "a\0b", "x" * 5000, "é", ""])
        sent = {"file": (name, rng.choice([b"", b"text", bytes(1 << 20)]))}
        return to.http.post(f"{to.url}/v1/files", files=sent, data={"purpose": "x" * 1000})
    id_ = rng.choice(["file-0", "..%2f..%2fblobs", "%00", "file-" + "0" * 24])
    return to.http.get(f"{to.url}/v1/files/{id_}/content")


def responses(to: Sending, rng: random.Random) -> httpx.Response:
    bad: list[dict[str, Any]] = [
        {"previous_response_id": "resp_" + "0" * 32},
        {"input": [{"type": "function_call", "call_id": "1", "name": "f", "arguments": "{"}]},
        {"input": []},
        {"text": {"format": {"type": "json_schema"}}},
    ]
    return to.post("/v1/responses", {"model": "mini", "input": "?"} | rng.choice(bad))


def anthropic(to: Sending, rng: random.Random) -> httpx.Response:
    bad: list[dict[str, Any]] = [
        {"max_tokens": 0},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url"}}]}]},
        {"system": ["x"]},
        {"tools": [{"name": "a b", "input_schema": {}}]},
        {"stop_sequences": ["x"] * 10**5},
    ]
    asked = {"model": "mini", "max_tokens": 2, "messages": MESSAGE}
    return to.post("/v1/messages", asked | rng.choice(bad))


def embeddings(to: Sending, rng: random.Random) -> httpx.Response:
    bad: list[Any] = [[10**9], [-1], [[]], [["x"]], "x" * 10**6, ["x"] * 3000, "", [1.5]]
    return to.post("/v1/embeddings", {"model": "mini", "input": rng.choice(bad)})


def broken_json(to: Sending, rng: random.Random) -> httpx.Response:
    bad = [
        b"",
        b"{",
        b"[" * 100_000,
        b"null",
        b'{"model": 5}',
        b"\xff\xfe",
        b'{"model":"mini","messages":7}',
    ]
    path = rng.choice(
        ["/api/chat", "/api/generate", "/v1/chat/completions", "/v1/messages", "/api/embed"]
    )
    return to.post(path, rng.choice(bad))


def nowhere(to: Sending, rng: random.Random) -> httpx.Response:
    path = rng.choice(["/v1/nothing", "/api/nothing", "/v1/../../etc", "/v1/models/%2e%2e", "/%00"])
    return to.http.request(rng.choice(["GET", "PUT", "DELETE", "PATCH"]), f"{to.url}{path}")


def wrong_host(to: Sending, rng: random.Random) -> httpx.Response:
    host = rng.choice(["evil.example", "evil.com@localhost", "[::1", "", "a" * 3000])
    return to.http.get(f"{to.url}/api/tags", headers={"Host": host})


def hang_up(to: Sending, rng: random.Random) -> None:
    """A request that is never finished, or whose answer nobody reads."""
    body = json.dumps({"model": "mini", "messages": MESSAGE}).encode()
    said = len(body) + rng.choice([0, 1000])
    head = f"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {said}\r\n\r\n".encode()
    place = urlsplit(to.url)
    with suppress(OSError), socket.create_connection((place.hostname, place.port)) as connection:
        connection.sendall((head + body)[: rng.randrange(len(head + body) + 1)])
        time.sleep(rng.random() / 2)


HOSTILE: list[Sender] = [
    *(half_character, broken_pattern, endless_schema, sampling_values, keep_alive, biases),
    *(many_choices, long_conversation, long_prompt, template, many_stops, addresses, bad_model),
    *(bombs, own_frames, files, responses, anthropic, embeddings, broken_json, nowhere),
    *(wrong_host, hang_up),
]


class Campaign:
    """Sends, and notes what went wrong and how long good requests took."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.clips = [video(number) for number in range(4)]
        self.wrong: list[str] = []
        self.waits: list[float] = []
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
        self.waits.append(time.perf_counter() - begin)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000, help="hostile ones")
    parser.add_argument("--before", type=int, default=40, help="good ones before the attack")
    parser.add_argument("--seed", type=int, default=0)
    options, rest = parser.parse_known_args()
    n_good = N_CLIENTS // SHARE_GOOD
    with served(rest) as (url, server, process):
        run = Campaign(url)
        with ThreadPoolExecutor(n_good) as clients:
            list(clients.map(lambda i: run.good(i, i), range(len(GOOD))))  # loads what is needed
            run.waits.clear()
            list(clients.map(lambda i: run.good(i, i), range(options.before)))
        alone, run.waits = max(run.waits), []
        settle = min(SETTLE, options.requests)
        run.attack(settle, n_good, options.seed)
        time.sleep(2)
        before, threads = memory(server), server.num_threads()
        begin = time.perf_counter()
        run.attack(options.requests - settle, n_good, options.seed + settle)
        seconds = time.perf_counter() - begin
        time.sleep(3)
        after, threads_after = memory(server), server.num_threads()
        healthy = httpx.get(f"{url}/healthz", timeout=5).status_code == 200
        children = server.children(recursive=True)
        alive = process.poll() is None
    longest = max(run.waits)
    print(f"{options.requests} hostile requests, {dict(run.statuses)}, {seconds:.0f} s")
    print(f"{len(run.waits)} good ones beside them: {longest:.2f} s at most; alone {alone:.2f} s")
    print(f"memory {before / 1e6:.0f} MB, then {after / 1e6:.0f} MB: {after / before - 1:+.1%}")
    print(f"threads {threads}, then {threads_after}; {len(children)} processes; healthy: {healthy}")
    print("slowest kinds, ms:", dict(run.slowest.most_common(6)))
    print(f"{len(run.wrong)} went wrong", *run.wrong[:20], sep="\n")
    fine = not run.wrong and longest <= alone + MOST_LONGER and after <= MOST_MEMORY * before
    sys.exit(not (fine and healthy and alive))


if __name__ == "__main__":
    main()
