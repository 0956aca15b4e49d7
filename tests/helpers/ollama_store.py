"""Ollama's store of models, laid out as Ollama does."""

import json
import shutil
from hashlib import sha256
from pathlib import Path


def into_ollama(folder: Path, name: str, file: Path) -> Path:
    """Put a file into Ollama's store under a name such as "host/namespace/model/tag"."""
    digest = sha256(file.read_bytes()).hexdigest()
    blob = folder / "blobs" / f"sha256-{digest}"
    blob.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, blob)
    prefix = "application/vnd.ollama.image"
    layers = [
        {"mediaType": f"{prefix}.template", "digest": f"sha256:{'0' * 64}", "size": 1},
        {"mediaType": f"{prefix}.model", "digest": f"sha256:{digest}", "size": file.stat().st_size},
    ]
    write_manifest(folder, name, json.dumps({"schemaVersion": 2, "config": {}, "layers": layers}))
    return blob


def write_manifest(folder: Path, name: str, text: str) -> None:
    path = folder / "manifests" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
