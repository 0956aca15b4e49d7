"""Find the GGUF files that programs store on this machine. Files are used in place, never copied.

- The hub's cache: https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
- Ollama: manifests like those of container images, which name blobs by their SHA-256.
- LM Studio: folders named like the hub's repositories.

Unreadable and malformed entries are skipped.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platformdirs import user_data_path

from reellama.gguf_tools.format.split_names import part_names
from reellama.gguf_tools.locate.naming import HUB_PREFIX, OLLAMA_PREFIX, short_names
from reellama.gguf_tools.user_paths import expand_user

HUB_FOLDER = re.compile(r"models--(.+?)--(.+)")
# The default server and namespace, which Ollama leaves out of a model's name.
OLLAMA_HOST, OLLAMA_NAMESPACE = "registry.ollama.ai", "library"
OLLAMA_MODEL = "application/vnd.ollama.image.model"
OLLAMA_PROJECTOR = "application/vnd.ollama.image.projector"
OLLAMA_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
MAX_SETTINGS_BYTES = 1 << 20  # manifests have a few hundred bytes
MAX_DEPTH = 5  # of folders to search; LM Studio's levels are publisher, model and quantization


@dataclass(frozen=True)
class StoredModel:
    """A model on this machine.

    Attributes:
        name: for `reellama.gguf_tools.locate.find.resolve`.
        path: of its file, or of the first one of a split model.
        source: the store: "package", "reellama", "hub", "Ollama" or "LM Studio".
        label: the file's name, or Ollama's name of the model.
        mmproj: its mmproj, if the store itself records one.
    """

    name: str
    path: Path
    source: str
    label: str
    mmproj: Path | None = None

    @property
    def parts(self) -> list[Path]:
        """All files of the model; some may be missing."""
        return [self.path.with_name(name) for name in part_names(self.path.name)]


def models_folder() -> Path:
    """Our own folder of models, which may not exist."""
    return user_data_path("reellama", appauthor=False) / "models"


def hub_cache() -> Path:
    """The hub's cache. Computed as in the hub's client, whose import takes a second."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{cache}/huggingface"
    setting = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return expand_user(os.path.expandvars(setting or f"{home}/hub"))


def ollama_folders() -> list[Path]:
    """Ollama's folders of models: the one that is set, or those of this user and of its service."""
    if setting := os.environ.get("OLLAMA_MODELS"):
        return [expand_user(setting)]
    defaults = ("~/.ollama/models", "/usr/share/ollama/.ollama/models", "/var/lib/ollama")
    return [expand_user(folder) for folder in defaults]


def lmstudio_folders() -> list[Path]:
    """LM Studio's folders of models: those in its settings, and present and former defaults."""
    pointer = _read(expand_user("~/.lmstudio-home-pointer")).strip()
    homes = [expand_user(home) for home in (pointer, "~/.lmstudio") if home]
    settings = [_parse(_read(home / "settings.json")).get("downloadsFolder") for home in homes]
    set_folders = [expand_user(folder) for folder in settings if isinstance(folder, str) and folder]
    defaults = [home / "models" for home in homes]
    return list(dict.fromkeys([*set_folders, *defaults, expand_user("~/.cache/lm-studio/models")]))


def own_models() -> Iterator[StoredModel]:
    """The models in our own folder."""
    return _folder_models(models_folder(), "reellama")


def lmstudio_models() -> Iterator[StoredModel]:
    """The models of LM Studio."""
    for folder in lmstudio_folders():
        yield from _folder_models(folder, "LM Studio")


def hub_models() -> Iterator[StoredModel]:
    """The models in the hub's cache, in the revision that was fetched last."""
    for folder in _entries(hub_cache()):
        if match := HUB_FOLDER.fullmatch(folder.name):
            files = _snapshot_files(folder)
            for name, short in short_names(files).items():
                yield StoredModel(
                    f"{HUB_PREFIX}{match[1]}/{match[2]}:{short}",
                    files[name],
                    "hub",
                    files[name].name,
                )


def ollama_models() -> Iterator[StoredModel]:
    """The models of Ollama whose blobs exist."""
    for folder in ollama_folders():
        for host in _entries(folder / "manifests"):
            for namespace in _entries(host):
                for model in _entries(namespace):
                    for tag in _entries(model):
                        if blob := _blob(folder, tag, OLLAMA_MODEL):
                            name = _ollama_name(host.name, namespace.name, model.name, tag.name)
                            mmproj = _blob(folder, tag, OLLAMA_PROJECTOR)
                            yield StoredModel(OLLAMA_PREFIX + name, blob, "Ollama", name, mmproj)


def repository_files(repo: str, revision: str = "") -> dict[str, Path]:
    """The models of a hub repository that are on this machine, by their paths in it.

    revision: a branch, tag or full commit, of which the hub's cache is searched. Without one, the
    cache is searched, and the folders of reellama and LM Studio for a folder with the repository's
    name.
    """
    cached = hub_cache() / f"models--{repo.replace('/', '--')}"
    if revision:
        commit = _read(cached / "refs" / revision).strip() or revision
        return _files(cached / "snapshots" / commit)
    files: dict[str, Path] = {}
    for root in (models_folder(), *lmstudio_folders()):
        files |= _files(root / repo)
    return files | _snapshot_files(cached)


def neighbours(model: Path) -> list[Path]:
    """The GGUFs in a file's repository in the hub's cache, or else in its folder, with the file
    itself. A split model is represented by its first file."""
    for folder in model.absolute().parents:
        if folder.name == "snapshots" and HUB_FOLDER.fullmatch(folder.parent.name):
            return list(_snapshot_files(folder.parent).values())
    return list(_files(model.parent, depth=1).values())


def _folder_models(folder: Path, source: str) -> Iterator[StoredModel]:
    for path in _files(folder).values():
        yield StoredModel(path.name, path, source, path.name)


def _snapshot_files(folder: Path) -> dict[str, Path]:
    """The models of a repository in the cache, each from main if it has the file, else from the
    newest revision."""
    main = _read(folder / "refs" / "main").strip()
    snapshots = _entries(folder / "snapshots")
    snapshots.sort(key=lambda path: (path.name == main, _age(path)))
    files: dict[str, Path] = {}
    for snapshot in snapshots:
        files |= _files(snapshot)
    return files


def _files(folder: Path, depth: int = MAX_DEPTH) -> dict[str, Path]:
    """The models below a folder, or their first files, by their paths relative to the folder."""
    first = (path.with_name(part_names(path.name)[0]) for path in _walk(folder, depth, set()))
    return {str(path.relative_to(folder)): path for path in first}


def _ollama_name(host: str, namespace: str, model: str, tag: str) -> str:
    """Ollama's own name of a model: "llama3.2:1b", "hf.co/owner/repo:Q4_K_M"."""
    prefix = [] if host == OLLAMA_HOST else [host]
    prefix += [] if not prefix and namespace == OLLAMA_NAMESPACE else [namespace]
    return "/".join([*prefix, f"{model}:{tag}"])


def _blob(folder: Path, manifest: Path, kind: str) -> Path | None:
    """The blob of a media type in a manifest, or None."""
    layers = _parse(_read(manifest)).get("layers")
    for layer in layers if isinstance(layers, list) else []:
        if isinstance(layer, dict) and layer.get("mediaType") == kind:
            # `fullmatch`, so that no manifest can point outside of the folder.
            match = OLLAMA_DIGEST.fullmatch(str(layer.get("digest")))
            path = folder / "blobs" / f"sha256-{match[1]}" if match else None
            return path if path and _is_file(path) else None
    return None


def _walk(folder: Path, depth: int, visited: set[str]) -> Iterator[Path]:
    """GGUF files below a folder. Links are followed, but each folder is visited only once."""
    entries = _entries(folder)
    if not entries or depth == 0 or (real := os.path.realpath(folder)) in visited:
        return
    visited.add(real)
    for path in entries:
        if path.suffix.lower() == ".gguf":
            if _is_file(path):
                yield path
        elif _is_folder(path):
            yield from _walk(path, depth - 1, visited)


# The functions below treat unreadable files as missing. ValueError is for a NUL byte in a path.


def _entries(folder: Path) -> list[Path]:
    """The entries of a folder, sorted, without hidden ones."""
    try:
        return [folder / name for name in sorted(os.listdir(folder)) if not name.startswith(".")]
    except (OSError, ValueError):
        return []


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _age(path: Path) -> float:
    """The modification time of a folder, in seconds."""
    try:
        return path.stat().st_mtime
    except (OSError, ValueError):
        return 0.0


def _read(path: Path) -> str:
    """The text of a small file."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_SETTINGS_BYTES).decode("utf-8")
    except (OSError, ValueError):
        return ""


def _parse(text: str) -> dict[str, Any]:
    """The JSON object of a text; empty if it is not one."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
