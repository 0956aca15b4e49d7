"""The models that clients made by create, copy and pull: JSON manifests beside blobs, in a folder.

manifests/HOST/NAMESPACE/MODEL/TAG.json    what belongs together under a name
blobs/sha256-HEX                           files that were uploaded; see `BlobStore`
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
    """What belongs together under a name.

    Attributes:
        llm: the GGUF: the digest of a blob, a path, or "" for the bundle's own.
        bundle: the bundle that sees for it, or "" for the server's.
        adapters: digests of GGUF LoRA adapters, or paths.
        template: a chat template, or "" for the GGUF's own.
        messages: of role and content; they stand before those of a request.
        modified_at: when it was written, ISO 8601.
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
    def is_uploaded(self) -> bool:
        """Whether the GGUF is one that a client sent."""
        return DIGEST.fullmatch(self.llm) is not None

    @property
    def blobs(self) -> set[str]:
        """Digests of the blobs that the manifest names."""
        return {each for each in (self.llm, *self.adapters) if DIGEST.fullmatch(each)}


class ModelStore:
    """The store in the folder `root`, which is made when something is first kept in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = BlobStore(root)

    def manifests(self) -> list[Manifest]:
        """All models, the newest first; what cannot be read is passed over."""
        manifests = map(_read, self.root.glob(MANIFESTS))
        return sorted(filter(None, manifests), key=lambda m: m.modified_at, reverse=True)

    def get(self, name: str) -> Manifest | None:
        """The model of this name, if there is one; a name that cannot be one has none."""
        try:
            return _read(self._path(ModelName.parse(name)))
        except ModelStoreError:
            return None

    def put(self, manifest: Manifest) -> Manifest:
        """Write a model under its name, in place of another one; returns it with name and date."""
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
        """Forget a model, and its blobs that no other has. Raises ModelStoreError for none."""
        manifest = self.get(name)
        if manifest is None:
            raise model_not_found(name)
        self._path(ModelName.parse(name)).unlink(missing_ok=True)
        self._remove_unused_blobs(manifest)

    def file(self, reference: str) -> Path:
        """The file of a manifest's `llm` or adapter. Raises ModelStoreError where it is lost."""
        path = self.blobs.path(reference) if DIGEST.fullmatch(reference) else Path(reference)
        if not path.is_file():
            raise ModelStoreError(
                f"{reference} is not there any more; create or pull the model again"
            )
        return path

    def sweep(self) -> None:
        """Remove what a server that was killed left: half a blob, and blobs that no model has."""
        remove_abandoned((*self.blobs.folder.glob(".incoming-*"), *self.root.glob(".quantizing-*")))
        manifests = [_read(path) for path in self.root.glob(MANIFESTS)]
        if None not in manifests:  # which blobs a broken manifest names is not known
            self.blobs.remove_unnamed({digest for m in manifests if m for digest in m.blobs})

    def _path(self, name: ModelName) -> Path:
        # Small letters, so that names that differ in that only are one on every file system.
        host, namespace, model, tag = (part.lower().replace(":", "%3a") for part in name.parts)
        return self.root / "manifests" / host / namespace / model / f"{tag}.json"

    def _remove_unused_blobs(self, manifest: Manifest | None) -> None:
        """Remove the blobs of a manifest that is gone and that no other one has."""
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
