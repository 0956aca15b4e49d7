"""The models that clients create, copy and pull: JSON manifests and blobs in a folder.

manifests/HOST/NAMESPACE/MODEL/TAG.json    a model's manifest
blobs/sha256-HEX                           an uploaded file; see `BlobStore`
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from reellama.gguf_tools.atomic_write import write_atomically
from reellama.pipeline.server.model_registry.blob_store import (
    DIGEST,
    BlobStore,
    make_folder,
    remove_abandoned,
)
from reellama.pipeline.server.model_registry.model_name import (
    ModelName,
    ModelStoreError,
    model_not_found,
)

MANIFESTS = "manifests/*/*/*/*.json"


@dataclass(frozen=True)
class Manifest:
    """The parts of a model.

    Attributes:
        llm: the GGUF: the digest of a blob, a path, or "" for the bundle's own.
        bundle: the bundle that encodes its videos, or "" for the server's.
        adapters: digests of GGUF LoRA adapters, or paths.
        template: a chat template, or "" for the GGUF's own.
        messages: with role and content, put before those of each request.
        modified_at: when the manifest was written, ISO 8601.
    """

    name: str
    llm: str = ""
    bundle: str = ""
    adapters: tuple[str, ...] = ()
    template: str = ""
    system: str = ""
    license: tuple[str, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)
    messages: tuple[dict[str, str], ...] = ()
    parent: str = ""
    modified_at: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest without its name and date, in hexadecimal."""
        key_fields = {k: v for k, v in asdict(self).items() if k not in ("name", "modified_at")}
        return hashlib.sha256(json.dumps(key_fields, sort_keys=True).encode()).hexdigest()

    @property
    def blobs(self) -> set[str]:
        """Digests of the blobs that the manifest names."""
        return {name for name in (self.llm, *self.adapters) if DIGEST.fullmatch(name)}


class ModelStore:
    """The store in the folder `root`, which is created for the first model."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = BlobStore(root)

    def manifests(self) -> list[Manifest]:
        """All manifests, the newest first, without those that cannot be read."""
        manifests = map(_read, self.root.glob(MANIFESTS))
        return sorted(filter(None, manifests), key=lambda m: m.modified_at, reverse=True)

    def get(self, name: str) -> Manifest | None:
        """The manifest of this name; None if there is none or the name is invalid."""
        try:
            return _read(self._path(ModelName.parse(name)))
        except ModelStoreError:
            return None

    def put(self, manifest: Manifest) -> Manifest:
        """Write a manifest, over one of the same name; returns it with full name and date."""
        name = ModelName.parse(manifest.name)
        now = datetime.now(timezone.utc).isoformat()
        stored = Manifest(**{**vars(manifest), "name": str(name), "modified_at": now})
        replaced = self.get(str(name))
        path = self._path(name)
        make_folder(path.parent, self.root)
        write_atomically(path, json.dumps(asdict(stored), indent=2) + "\n")
        self._remove_unused_blobs(replaced)
        return stored

    def delete(self, name: str) -> None:
        """Delete a model and its unused blobs. Raises ModelStoreError if there is no such model."""
        manifest = self.get(name)
        if manifest is None:
            raise model_not_found(name)
        self._path(ModelName.parse(name)).unlink(missing_ok=True)
        self._remove_unused_blobs(manifest)

    def file(self, reference: str) -> Path:
        """The file of a manifest's `llm` or adapter. Raises ModelStoreError if it is missing."""
        path = self.blobs.path(reference) if DIGEST.fullmatch(reference) else Path(reference)
        if not path.is_file():
            raise ModelStoreError(
                f"{reference} is not there any more; create or pull the model again"
            )
        return path

    def sweep(self) -> None:
        """Remove what a killed server has left: unfinished blobs, and blobs that no model uses."""
        remove_abandoned((*self.blobs.folder.glob(".incoming-*"), *self.root.glob(".quantizing-*")))
        manifests = [_read(path) for path in self.root.glob(MANIFESTS)]
        if None not in manifests:  # a manifest that cannot be read may name any blob
            self.blobs.remove_unnamed({digest for m in manifests if m for digest in m.blobs})

    def _path(self, name: ModelName) -> Path:
        # Lower case, so that names are not case-sensitive on any file system.
        host, namespace, model, tag = (part.lower().replace(":", "%3a") for part in name.parts)
        return self.root / "manifests" / host / namespace / model / f"{tag}.json"

    def _remove_unused_blobs(self, manifest: Manifest | None) -> None:
        """Remove the blobs of a deleted manifest that no other one names."""
        if manifest is not None:
            used = set().union(*(other.blobs for other in self.manifests()))
            self.blobs.remove(manifest.blobs - used)


def _read(path: Path) -> Manifest | None:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        lists = {name: tuple(fields[name]) for name in ("adapters", "license", "messages")}
        return Manifest(**{**fields, **lists})
    except (OSError, ValueError, TypeError, KeyError):
        return None
