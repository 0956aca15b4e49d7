"""Pushes a model to a registry, as `ollama push` does: blobs, then a manifest that names them.

Registries speak the OCI distribution protocol, and layers have Ollama's media types. Registries
that require an account are not supported.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.server.model_registry.blob_store import CHUNK_BYTES
from reellama.pipeline.server.model_registry.model_name import ModelName
from reellama.pipeline.server.model_registry.model_store import ModelStore
from reellama.pipeline.server.model_registry.registered_model import RegisteredModel

if TYPE_CHECKING:
    import httpx

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_TYPE = "application/vnd.ollama.image."  # followed by the kind: model, template, ...
TIMEOUT = 60.0  # seconds without progress

Report = Callable[[dict[str, Any]], None]


class PushError(ReellamaError):
    """A push that failed; `status` is HTTP's."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Layer:
    """A part of a model, a file or bytes. `kind`: "model", "template", ...; "" for the config."""

    kind: str
    content: Path | bytes
    digest: str
    size: int

    @classmethod
    def of(cls, kind: str, content: Path | bytes) -> Layer:
        """A layer of this content, which is read for its digest."""
        sha256, size = hashlib.sha256(), 0
        for piece in _pieces(content):
            sha256.update(piece)
            size += len(piece)
        return cls(kind, content, f"sha256:{sha256.hexdigest()}", size)

    @property
    def entry(self) -> dict[str, Any]:
        """The layer's entry in a manifest."""
        media_type = LAYER_TYPE + self.kind if self.kind else CONFIG_TYPE
        return {"mediaType": media_type, "digest": self.digest, "size": self.size}


def check_host(name: ModelName, allowed_hosts: Collection[str]) -> None:
    """Raise PushError, status 403, unless models may be pushed to the host of this name."""
    if name.host.lower() not in {host.lower() for host in allowed_hosts}:
        raise PushError(
            f"models are not pushed to {name.host}: start the server with --allow-push HOST, and "
            "give the model a name that begins with that host",
            403,
        )


def push_model(
    registered: RegisteredModel,
    name: ModelName,
    store: ModelStore,
    report: Report,
    *,
    insecure: bool = False,
) -> None:
    """Push a model, without blobs that the registry has. `insecure`: by plain HTTP.

    Raises PushError if the registry does not answer or refuses.
    """
    import httpx

    report({"status": "retrieving manifest"})
    layers = list(_layers(registered, store))
    config = Layer.of("", json.dumps(_config(registered, layers)).encode())
    base = f"{'http' if insecure else 'https'}://{name.host}/v2/{name.namespace}/{name.model}/"
    # No trust_env: a proxy from the environment is not an allowed host.
    with httpx.Client(timeout=TIMEOUT, trust_env=False) as client:
        try:
            for layer in (*layers, config):
                _push_layer(client, base, layer, report)
            report({"status": "pushing manifest"})
            manifest = {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": config.entry,
                "layers": [layer.entry for layer in layers],
            }
            headers = {"Content-Type": MANIFEST_TYPE}
            content = json.dumps(manifest).encode()
            url = f"{base}manifests/{name.tag}"
            _check(client.put(url, content=content, headers=headers), name.host)
        except httpx.HTTPError as error:
            raise PushError(f"cannot push to {name.host}: {error}", 502) from error
    report({"status": "success"})


def _layers(registered: RegisteredModel, store: ModelStore) -> Iterator[Layer]:
    manifest = registered.manifest
    if len(registered.files) > 1:
        raise PushError("a model in several files is pushed when they are joined into one")
    yield Layer.of("model", registered.path)
    bundled = registered.bundle.lora if registered.bundle else []
    if any(scale != 1 for _, scale in bundled):
        raise PushError("an adapter with a scale is pushed when it is merged into its model")
    for path in (*(path for path, _ in bundled), *map(store.file, manifest.adapters)):
        yield Layer.of("adapter", path)
    for kind in ("template", "system"):
        if text := getattr(manifest, kind):
            yield Layer.of(kind, text.encode())
    for text in manifest.license:
        yield Layer.of("license", text.encode())
    if manifest.parameters:
        yield Layer.of("params", json.dumps(manifest.parameters).encode())
    if manifest.messages:
        yield Layer.of("messages", json.dumps(list(manifest.messages)).encode())


def _config(registered: RegisteredModel, layers: list[Layer]) -> dict[str, Any]:
    details = registered.details()
    return {
        "model_format": details["format"],
        "model_family": details["family"],
        "model_families": details["families"],
        "model_type": details["parameter_size"],
        "file_type": details["quantization_level"],
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
    }


def _push_layer(client: httpx.Client, base: str, layer: Layer, report: Report) -> None:
    """Upload a layer, unless the registry has it."""
    progress = {
        "status": f"pushing {layer.digest[7:19]}",
        "digest": layer.digest,
        "total": layer.size,
    }
    if client.head(f"{base}blobs/{layer.digest}").status_code == 200:
        return report(progress | {"completed": layer.size})
    host = base.split("/")[2]
    upload = _check(client.post(f"{base}blobs/uploads/"), host)
    location = urljoin(str(upload.url), upload.headers.get("location", ""))
    if location.split("/")[2] != host:
        raise PushError(f"{host} wants the model sent to another host: refused", 502)

    def pieces() -> Iterator[bytes]:
        sent = 0
        for piece in _pieces(layer.content):
            report(progress | {"completed": sent})
            yield piece
            sent += len(piece)

    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(layer.size)}
    url = f"{location}{'&' if '?' in location else '?'}digest={layer.digest}"
    _check(client.put(url, content=pieces(), headers=headers), host)
    return report(progress | {"completed": layer.size})


def _check(reply: httpx.Response, host: str) -> httpx.Response:
    """The reply. Raises PushError for an error."""
    if reply.status_code == 401:
        raise PushError(f"{host} wants an account, and this server has none", 401)
    if not reply.is_success:
        raise PushError(f"{host} answered with status {reply.status_code}", 502)
    return reply


def _pieces(content: Path | bytes) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            yield piece
