"""Requests that no client should send, of every kind that once hurt others."""

from __future__ import annotations

import base64
import io
import json
import random
import socket
import struct
import time
import zlib
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import httpx
from PIL import Image

from benchmarks.helpers.good_requests import MESSAGE, Client, Sender, parts, schema


def gif(side: int, n_frames: int) -> bytes:
    """An animation that is small as a file and large as pixels."""
    frames = [Image.new("P", (side, side), i) for i in range(n_frames)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=100)
    return file.getvalue()


def huge_png() -> bytes:
    """A picture of 100,000 x 100,000 pixels, as its header says."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


BOMB = gif(4000, 40)
TOP_KS: list[Any] = [-(10**30), 10**30, "x", None, []]


def half_character(client: Client, rng: random.Random) -> httpx.Response:
    return client.generate(options={"stop": ["\ud800"]})


def broken_pattern(client: Client, rng: random.Random) -> httpx.Response:
    pattern = rng.choice(["^*+?$", "^a]b)$", "^((a*)*)*b$", "^(a|a)*$", "^[^a", "^a{9999}{9999}$"])
    return client.chat(response_format=schema(type="string", pattern=pattern))


def endless_schema(client: Client, rng: random.Random) -> httpx.Response:
    big: dict[str, Any] = {"type": "array", "items": {}, "minItems": 10**6}
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(300):
        deep = {"type": "array", "items": deep}
    wide = {"enum": [f"{i:06d}" for i in range(20_000)]}
    return client.generate(
        format=rng.choice([big, deep, wide, {"type": "string", "minLength": 10**9}])
    )


def sampling_values(client: Client, rng: random.Random) -> httpx.Response:
    bad: list[dict[str, Any]] = [
        {"repeat_last_n": 2147483647, "repeat_penalty": 1.1},
        *({"temperature": x} for x in (float("nan"), float("inf"), -5, 1e300)),
        *({"top_k": x} for x in TOP_KS),
        *({"seed": x} for x in (2**63, -(2**63), 2**80)),
        *({"num_ctx": x} for x in (-1, 0, 2**40)),
    ]
    return client.generate(options=rng.choice(bad))


def keep_alive(client: Client, rng: random.Random) -> httpx.Response:
    return client.generate(
        keep_alive=rng.choice([1e300, "999999999h", "soon", float("nan"), [], "5m"])
    )


def biases(client: Client, rng: random.Random) -> httpx.Response:
    bad: list[dict[str, Any]] = [
        {"x": 1},
        {"5": 1e9},
        {str(2**40): 1},
        {str(i): 1 for i in range(5000)},
    ]
    return client.chat(logit_bias=rng.choice(bad))


def many_choices(client: Client, rng: random.Random) -> httpx.Response:
    return client.chat(n=rng.choice([0, -1, 10**9]))


def long_conversation(client: Client, rng: random.Random) -> httpx.Response:
    n = rng.choice([9_900, 9_900, 20_001, 140_001])  # the first is as long as is taken
    messages = [{"role": ("user", "assistant")[i % 2], "content": "hi"} for i in range(n)]
    return client.chat(messages=messages)


def long_prompt(client: Client, rng: random.Random) -> httpx.Response:
    return client.generate(prompt="word " * rng.choice([700, 10**6]))


def template(client: Client, rng: random.Random) -> httpx.Response:
    bad = [
        "{{ (10**60000000) % 7 }}",
        "{{ 'x'*500000000 }}",
        "{% for a in range(10**9) %}{% endfor %}",
    ]
    return client.generate(
        template=rng.choice([*bad, "{{ .Prompt }}", "{{ ''.__class__ }}", "{% if"])
    )


def many_stops(client: Client, rng: random.Random) -> httpx.Response:
    return client.chat(stop=rng.choice([["x"] * 10**6, ["x" * 10**6], [""], [1], "\0"]))


def addresses(client: Client, rng: random.Random) -> httpx.Response:
    bad = [
        "http://[::1",
        "http://127.0.0.1:1/a",
        "file:///etc/passwd",
        "ftp://a",
        "data:,",
        "\ud800",
        "",
    ]
    return client.chat(messages=parts({"type": "image_url", "image_url": rng.choice(bad)}))


def bad_model(client: Client, rng: random.Random) -> httpx.Response:
    made = {"model": f"made-{rng.randrange(4)}", "from": "mini"}
    bad: list[dict[str, Any]] = [
        {"template": "{{ .Prompt }}"},
        {"parameters": {"temperature": "hot"}},
        {"from": "/etc/passwd"},
    ]
    return client.post("/api/create", made | rng.choice(bad))


def bombs(client: Client, rng: random.Random) -> httpx.Response:
    clip = base64.b64decode(client.clip)
    cut = clip[: rng.randrange(len(clip))]
    flipped = bytearray(clip)
    for _ in range(40):
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    lists = b"#EXTM3U\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n"
    zeros = zlib.compress(bytes(50_000_000))
    return client.show(
        rng.choice([BOMB, huge_png(), zeros, cut, bytes(flipped), *lists, bytes(2 << 20)])
    )


def no_base64(client: Client, rng: random.Random) -> httpx.Response:
    bad = [
        "@@not base64@@",
        "=",
        "A" * 4001,
        "\ud800",
        "data:video/mp4;base64,%",
        client.clip[:-3] + "\n",
    ]
    return client.generate(images=[rng.choice(bad)])


def own_frames(client: Client, rng: random.Random) -> httpx.Response:
    times = rng.choice([[0], [1, 0], [float("nan")], [-1, 0], list(range(5000)), [1e308, 2e308]])
    video_part = {"type": "input_video", "images": [client.clip[:400]] * 2, "times": times}
    return client.chat(messages=parts(video_part))


def files(client: Client, rng: random.Random) -> httpx.Response:
    if rng.random() < 0.5:
        name = rng.choice(["../../x", "a\0b", "x" * 5000, "é", ""])
        sent = {"file": (name, rng.choice([b"", b"text", bytes(1 << 20)]))}
        return client.http.post(f"{client.url}/v1/files", files=sent, data={"purpose": "x" * 1000})
    id_ = rng.choice(["file-0", "..%2f..%2fblobs", "%00", "file-" + "0" * 24])
    return client.http.get(f"{client.url}/v1/files/{id_}/content")


def responses(client: Client, rng: random.Random) -> httpx.Response:
    bad: list[dict[str, Any]] = [
        {"previous_response_id": "resp_" + "0" * 32},
        {"input": [{"type": "function_call", "call_id": "1", "name": "f", "arguments": "{"}]},
        {"input": []},
        {"text": {"format": {"type": "json_schema"}}},
    ]
    return client.post("/v1/responses", {"model": "mini", "input": "?"} | rng.choice(bad))


def anthropic(client: Client, rng: random.Random) -> httpx.Response:
    bad: list[dict[str, Any]] = [
        {"max_tokens": 0},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url"}}]}]},
        {"system": ["x"]},
        {"tools": [{"name": "a b", "input_schema": {}}]},
        {"stop_sequences": ["x"] * 10**5},
    ]
    body = {"model": "mini", "max_tokens": 2, "messages": MESSAGE}
    return client.post("/v1/messages", body | rng.choice(bad))


def embeddings(client: Client, rng: random.Random) -> httpx.Response:
    bad: list[Any] = [[10**9], [-1], [[]], [["x"]], "x" * 10**6, ["x"] * 3000, "", [1.5]]
    return client.post("/v1/embeddings", {"model": "mini", "input": rng.choice(bad)})


def broken_json(client: Client, rng: random.Random) -> httpx.Response:
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
    return client.post(path, rng.choice(bad))


def nowhere(client: Client, rng: random.Random) -> httpx.Response:
    path = rng.choice(["/v1/nothing", "/api/nothing", "/v1/../../etc", "/v1/models/%2e%2e", "/%00"])
    return client.http.request(rng.choice(["GET", "PUT", "DELETE", "PATCH"]), f"{client.url}{path}")


def wrong_host(client: Client, rng: random.Random) -> httpx.Response:
    host = rng.choice(["evil.example", "evil.com@localhost", "[::1", "", "a" * 3000])
    return client.http.get(f"{client.url}/api/tags", headers={"Host": host})


def hang_up(client: Client, rng: random.Random) -> None:
    """A request that is never finished, or whose answer nobody reads."""
    body = json.dumps({"model": "mini", "messages": MESSAGE}).encode()
    length = len(body) + rng.choice([0, 1000])
    lines = ["POST /api/chat HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {length}", "", ""]
    head = "\r\n".join(lines).encode()
    place = urlsplit(client.url)
    with suppress(OSError), socket.create_connection((place.hostname, place.port)) as connection:
        connection.sendall((head + body)[: rng.randrange(len(head + body) + 1)])
        time.sleep(rng.random() / 2)


HOSTILE: list[Sender] = [
    *(half_character, broken_pattern, endless_schema, sampling_values, keep_alive, biases),
    *(many_choices, long_conversation, long_prompt, template, many_stops, addresses, bad_model),
    *(bombs, no_base64, own_frames, files, responses, anthropic, embeddings, broken_json, nowhere),
    *(wrong_host, hang_up),
]
