"""Ollama's store of models, laid out as Ollama does."""

import json
import shutil
from hashlib import sha256
from pathlib import Path


def into_ollama(folder: Path, name: str, file: Path, projector: Path | None = None) -> Path:
    """Put a model into Ollama's store under a name such as "host/namespace/model/tag".

    Returns the path of its blob.
    """
    kinds = {"template": None, "model": file, "projector": projector}
    layers = [
        {
            "mediaType": f"application/vnd.ollama.image.{kind}",
            "digest": f"sha256:{_store(folder, path) if path else '0' * 64}",
            "size": path.stat().st_size if path else 1,
        }
        for kind, path in kinds.items()
        if path or kind == "template"
    ]
    write_manifest(folder, name, json.dumps({"schemaVersion": 2, "config": {}, "layers": layers}))
    return folder / "blobs" / f"sha256-{_digest(file)}"


def _store(folder: Path, file: Path) -> str:
    """Copy a file to where its hash says; returns the hash."""
    blob = folder / "blobs" / f"sha256-{_digest(file)}"
    blob.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, blob)
    return _digest(file)


def _digest(file: Path) -> str:
    return sha256(file.read_bytes()).hexdigest()


def write_manifest(folder: Path, name: str, text: str) -> None:
    path = folder / "manifests" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
