"""A registry on this machine: as much of the containers' distribution protocol as a push needs."""

from __future__ import annotations

import hashlib
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.helpers.http_server import Server


@dataclass
class Registry:
    """What was sent: contents by digest, manifests by "NAMESPACE/MODEL:TAG".

    refusal: a status that every upload is answered with. location: of all uploads, in place of
    its own.
    """

    host: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict)
    uploads: set[str] = field(default_factory=set)
    n_uploads: int = 0
    refusal: int | None = None
    location: str | None = None

    def layers(self, name: str) -> dict[str, bytes]:
        """The contents of a model by their kinds. Raises KeyError for one that is not there."""
        return {
            each["mediaType"].rpartition(".")[2]: self.blobs[each["digest"]]
            for each in self.manifests[name]["layers"]
        }


@contextmanager
def running(registry: Registry) -> Iterator[Registry]:
    """Serve it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, status: int, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def body(self) -> bytes:
            return self.rfile.read(int(self.headers["Content-Length"] or 0))

        def do_HEAD(self) -> None:
            self.answer(200 if self.path.rpartition("/")[2] in registry.blobs else 404)

        def do_POST(self) -> None:
            self.body()
            if registry.refusal:
                return self.answer(registry.refusal)
            upload = uuid.uuid4().hex
            registry.uploads.add(upload)
            where = registry.location or f"{self.path}{upload}?state=1"
            return self.answer(202, Location=where)

        def do_PUT(self) -> None:
            data, url = self.body(), urlsplit(self.path)
            _, _, namespace, model, kind, *rest = url.path.split("/")
            if kind == "manifests":
                said = json.loads(data)
                known = [said["config"], *said["layers"]]
                if any(len(registry.blobs.get(k["digest"], b"")) != k["size"] for k in known):
                    return self.answer(400)
                registry.manifests[f"{namespace}/{model}:{rest[0]}"] = said
                return self.answer(201)
            digest = parse_qs(url.query)["digest"][0]
            if digest != f"sha256:{hashlib.sha256(data).hexdigest()}":
                return self.answer(400)
            registry.uploads.remove(rest[1])
            registry.blobs[digest] = data
            registry.n_uploads += 1
            return self.answer(201)

    server = Server(("127.0.0.1", 0), Handler)
    registry.host = f"127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
