"""A small Ollama server on this machine: the part of its HTTP API that we use, and its errors.

It checks what it is sent as the real one does: digests of blobs, models and blobs that must exist.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from PIL import Image

from tests.helpers.http_server import Server

CREATED = "2026-01-01T00:00:00Z"


@dataclass
class Ollama:
    """What the server has and how it behaves; all of it can be changed while it runs.

    Attributes:
        models: capabilities by name.
        answer: the pieces of every answer.
        logprobs: whether answers come with probabilities, as new servers give them.
        cuts: in the n-th chat, from 0, the connection breaks after so many pieces.
        fail: the answer ends in this error after one piece, once.
        chats: the bodies of the chats that were asked for.
        pictures: sizes of the pictures that came, decoded.
        blobs: the blobs by digest. uploads: how often one was sent.
        created: the bodies of what was created, by name.
    """

    models: dict[str, list[str]]
    url: str = ""
    answer: list[str] = field(default_factory=lambda: ["A", " red", " square", "."])
    logprobs: bool = True
    cuts: dict[int, int] = field(default_factory=dict)
    fail: str = ""
    chats: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[tuple[int, int]] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    uploads: int = 0
    created: dict[str, dict[str, Any]] = field(default_factory=dict)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    ollama: Ollama

    def do_HEAD(self) -> None:
        self.send_json(200 if self.path.rpartition("/")[2] in self.ollama.blobs else 404, None)

    def do_GET(self) -> None:
        if self.path == "/api/version":
            self.send_json(200, {"version": "0.13.0"})
        else:
            self.send_json(404, {"error": "not found"})

    def do_POST(self) -> None:
        body = self.body()
        if self.path.startswith("/api/blobs/"):
            self.take_blob(self.path.rpartition("/")[2], body)
            return
        request = json.loads(body)
        {"/api/show": self.show, "/api/chat": self.chat, "/api/create": self.create}[self.path](
            request
        )

    def show(self, request: dict[str, Any]) -> None:
        name = request["model"]
        if name not in self.ollama.models:
            self.send_json(404, {"error": f"model '{name}' not found"})
            return
        answer = {"details": {"format": "gguf"}, "model_info": {}, "template": ""}
        self.send_json(200, {**answer, "capabilities": self.ollama.models[name]})

    def chat(self, request: dict[str, Any]) -> None:
        ollama, name = self.ollama, request["model"]
        ollama.chats.append(request)
        if name not in ollama.models:
            self.send_json(404, {"error": f"model '{name}' not found"})
            return
        for message in request["messages"]:
            for picture in message.get("images", ()):
                ollama.pictures.append(Image.open(io.BytesIO(base64.b64decode(picture))).size)
        self.begin_lines()
        for i, piece in enumerate(ollama.answer):
            if ollama.cuts.get(len(ollama.chats) - 1) == i:
                self.close_connection = True
                return  # without the last, empty chunk
            if ollama.fail and i == 1:
                self.line({"error": ollama.fail})
                ollama.fail = ""
                self.end_lines()
                return
            self.line(self.piece(name, piece, bool(request.get("logprobs"))))
        message = {"role": "assistant", "content": ""}
        counts = {"prompt_eval_count": 40, "eval_count": len(ollama.answer)}
        times = {"prompt_eval_duration": 2_000_000_000, "eval_duration": 1_000_000_000}
        end = {"model": name, "created_at": CREATED, "message": message, "done": True}
        self.line({**end, "done_reason": "stop", "load_duration": 0, **counts, **times})
        self.end_lines()

    def piece(self, name: str, text: str, logprobs: bool) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        line = {"model": name, "created_at": CREATED, "message": message, "done": False}
        if logprobs and self.ollama.logprobs:
            others = [{"token": text, "logprob": -0.5}, {"token": "?", "logprob": -2.0}]
            line["logprobs"] = [{"token": text, "logprob": -0.5, "top_logprobs": others}]
        return line

    def take_blob(self, digest: str, body: bytes) -> None:
        if digest != f"sha256:{hashlib.sha256(body).hexdigest()}":
            self.send_json(400, {"error": "digest mismatch"})
            return
        self.ollama.uploads += 1
        self.ollama.blobs[digest] = body
        self.send_json(201, None)

    def create(self, request: dict[str, Any]) -> None:
        digests = [*request.get("files", {}).values(), *request.get("adapters", {}).values()]
        missing = [digest for digest in digests if digest not in self.ollama.blobs]
        if missing:
            self.send_json(400, {"error": f"blob {missing[0]} not found"})
            return
        self.begin_lines()
        if self.ollama.fail:
            self.line({"status": "parsing GGUF"})
            self.line({"error": self.ollama.fail})
            self.ollama.fail = ""
        else:
            self.ollama.created[request["model"]] = request
            self.ollama.models[request["model"]] = ["completion"]
            for status in ("parsing GGUF", "writing manifest", "success"):
                self.line({"status": status})
        self.end_lines()

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def send_json(self, status: int, content: Any) -> None:
        body = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def begin_lines(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def line(self, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def end_lines(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def serve(models: dict[str, list[str]]) -> Iterator[Ollama]:
    """An Ollama server with `models` at a free port."""
    ollama = Ollama(models)
    handler = type("Handler", (_Handler,), {"ollama": ollama})
    server = Server(("127.0.0.1", 0), handler)
    ollama.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield ollama
    finally:
        server.shutdown()
        server.server_close()
