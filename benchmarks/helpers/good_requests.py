"""A client of `reellama serve`, and requests that it must answer."""

from __future__ import annotations

import base64
import json
import random
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np

MESSAGE = [{"role": "user", "content": "Say something."}]

Sender = Callable[["Client", random.Random], httpx.Response | None]


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


class Client:
    """A client of the server, and what it keeps of it."""

    def __init__(self, url: str, clip: bytes, number: int) -> None:
        self.url, self.clip = url, base64.b64encode(clip).decode()
        # An address of its own, by which the server shares its places; Linux answers to all these.
        transport = httpx.HTTPTransport(verify=False, local_address=f"127.0.0.{2 + number}")
        self.http = httpx.Client(timeout=300, transport=transport)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        """Send a body: JSON, or bytes as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.http.post(f"{self.url}{path}", content=content, **more)

    def generate(self, **fields: Any) -> httpx.Response:
        options = {"num_predict": 2, **fields.pop("options", {})}
        body = {"model": "mini", "prompt": "Go.", "stream": False, "options": options}
        return self.post("/api/generate", body | fields)

    def chat(self, **fields: Any) -> httpx.Response:
        body = {"model": "mini", "messages": MESSAGE, "max_tokens": 2}
        return self.post("/v1/chat/completions", body | fields)

    def show(self, data: bytes, **fields: Any) -> httpx.Response:
        packed = base64.b64encode(data).decode()
        message = {"role": "user", "content": "?", "images": [packed]}
        body = {"model": "mini", "messages": [message], "stream": False}
        return self.post("/api/chat", body | fields)


def schema(**fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": fields}}


def parts(*found: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*found, {"type": "text", "text": "?"}]}]


def good_chat(client: Client, rng: random.Random) -> httpx.Response:
    return client.chat(seed=rng.randrange(99), max_tokens=8)


def good_generate(client: Client, rng: random.Random) -> httpx.Response:
    return client.generate(prompt=f"{rng.random()}: a word", options={"num_predict": 8})


def good_stream(client: Client, rng: random.Random) -> httpx.Response:
    body = {"model": "mini", "messages": MESSAGE, "options": {"num_predict": 8}}
    return client.post("/api/chat", body)


def good_schema(client: Client, rng: random.Random) -> httpx.Response:
    return client.chat(response_format=schema(enum=["red", "blue"]), max_tokens=8)


def good_video(client: Client, rng: random.Random) -> httpx.Response:
    message = {"role": "user", "content": "What happens?", "images": [client.clip]}
    body = {"model": "mini", "messages": [message], "stream": False}
    return client.post("/api/chat", body | {"options": {"num_predict": 8}})


def good_new_schema(client: Client, rng: random.Random) -> httpx.Response:
    """One that the server has not read before."""
    named = {f"colour {rng.random()}": {"enum": ["red", "blue"]}}
    bound = schema(type="object", properties=named, required=[*named])
    return client.chat(response_format=bound, max_tokens=8)


def good_tools(client: Client, rng: random.Random) -> httpx.Response:
    town = {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}
    tool = {"name": f"weather_{rng.randrange(10**9)}", "parameters": town}
    return client.chat(tools=[{"type": "function", "function": tool}], max_tokens=8)


def good_new_video(client: Client, rng: random.Random) -> httpx.Response:
    """One that the server has not seen before: with a box that says nothing at its end."""
    free = struct.pack(">I4sd", 16, b"free", rng.random())
    return client.show(base64.b64decode(client.clip) + free, options={"num_predict": 8})


def good_embed(client: Client, rng: random.Random) -> httpx.Response:
    text = rng.choice([f"{rng.random()} of a dog", "A dog runs. " * 100])
    return client.post("/api/embed", {"model": "mini", "input": text})


def good_message(client: Client, rng: random.Random) -> httpx.Response:
    return client.post("/v1/messages", {"model": "mini", "max_tokens": 8, "messages": MESSAGE})


def good_response(client: Client, rng: random.Random) -> httpx.Response:
    body = {"model": "mini", "input": "Say something.", "max_output_tokens": 8, "store": False}
    return client.post("/v1/responses", body)


GOOD: list[Callable[[Client, random.Random], httpx.Response]] = [
    *(good_chat, good_generate, good_stream, good_schema, good_video),
    *(good_message, good_response, good_new_schema, good_tools, good_new_video, good_embed),
]
