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


class RegistryHandler(BaseHTTPRequestHandler):
    """Takes blobs and manifests for the registry of its server."""

    protocol_version = "HTTP/1.1"

    @property
    def registry(self) -> Registry:
        assert isinstance(self.server, RegistryServer)
        return self.server.registry

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
        self.answer(200 if self.path.rpartition("/")[2] in self.registry.blobs else 404)

    def do_POST(self) -> None:
        self.body()
        if self.registry.refusal:
            return self.answer(self.registry.refusal)
        upload = uuid.uuid4().hex
        self.registry.uploads.add(upload)
        where = self.registry.location or f"{self.path}{upload}?state=1"
        return self.answer(202, Location=where)

    def do_PUT(self) -> None:
        data, url = self.body(), urlsplit(self.path)
        _, _, namespace, model, kind, *rest = url.path.split("/")
        if kind == "manifests":
            self.answer(self.put_manifest(f"{namespace}/{model}:{rest[0]}", json.loads(data)))
        else:
            self.answer(self.put_blob(parse_qs(url.query)["digest"][0], rest[1], data))

    def put_manifest(self, name: str, manifest: dict[str, Any]) -> int:
        """Keep a manifest whose blobs are all there; the status that says whether it was."""
        named = [manifest["config"], *manifest["layers"]]
        if any(len(self.registry.blobs.get(k["digest"], b"")) != k["size"] for k in named):
            return 400
        self.registry.manifests[name] = manifest
        return 201

    def put_blob(self, digest: str, upload: str, data: bytes) -> int:
        """Keep a blob of this digest; the status that says whether it has it."""
        if digest != f"sha256:{hashlib.sha256(data).hexdigest()}":
            return 400
        self.registry.uploads.remove(upload)
        self.registry.blobs[digest] = data
        self.registry.n_uploads += 1
        return 201


class RegistryServer(Server):
    """Serves one registry, on a free port."""

    def __init__(self, registry: Registry) -> None:
        super().__init__(("127.0.0.1", 0), RegistryHandler)
        self.registry = registry


@contextmanager
def running(registry: Registry) -> Iterator[Registry]:
    """Serve a registry in a thread."""
    server = RegistryServer(registry)
    registry.host = f"127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
