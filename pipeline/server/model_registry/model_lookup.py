"""Finds the model of a name: in the store, the server's bundle, or a GGUF on this machine."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from reellama.gguf_tools.atomic_write import stamp
from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.locate import find
from reellama.gguf_tools.locate.naming import HUB_PREFIX, OLLAMA_PREFIX
from reellama.gguf_tools.locate.vision_models import find_mmproj
from reellama.gguf_tools.user_paths import expand_user
from reellama.pipeline.server.model_registry.model_name import (
    DEFAULT_TAG,
    ModelStoreError,
    model_not_found,
    short_name,
)
from reellama.pipeline.server.model_registry.model_store import Manifest, ModelStore
from reellama.pipeline.server.model_registry.registered_model import RegisteredModel, read_header

if TYPE_CHECKING:
    from reellama.models.open_bundle import VideoBundle
    from reellama.pipeline.server.settings import Settings

MAX_BUNDLES = 8  # open at a time


def look_up_model(name: str, settings: Settings, store: ModelStore) -> RegisteredModel:
    """The model of this name: one of the store, the bundle, or a GGUF on this machine.

    Paths are names only in folders that are allowed. Raises ModelStoreError, status 404, if there
    is no such model.
    """
    server_bundle = open_registered_bundle(settings)
    if manifest := store.get(name):
        bundle = _open_bundle(manifest.bundle, settings) if manifest.bundle else server_bundle
        path = store.file(manifest.llm) if manifest.llm else _llm_path(settings, bundle)
        bundle_or_none = _if_width_fits(bundle, path)
        is_trusted = _is_served(path, settings, server_bundle)
        return RegisteredModel(manifest.name, path, manifest, bundle_or_none, is_trusted)
    short = short_name(name)
    if short.lower() == server_bundle.name.lower():
        path = _llm_path(settings, server_bundle)
        manifest = Manifest(f"{server_bundle.name}:{DEFAULT_TAG}", system=server_bundle.system)
        bundle_or_none = _if_width_fits(server_bundle, path)
        return RegisteredModel(server_bundle.name, path, manifest, bundle_or_none, is_trusted=True)
    try:
        if not _is_allowed(short, settings):
            raise GGUFError("a path outside of the folders that are allowed")
        path = find.resolve(short)
    except GGUFError as error:
        raise model_not_found(name) from error
    bundle_or_none = _vision_bundle(path, settings) or _if_width_fits(server_bundle, path)
    is_trusted = _is_served(path, settings, server_bundle)
    return RegisteredModel(short, path, Manifest(name, llm=str(path)), bundle_or_none, is_trusted)


def open_registered_bundle(settings: Settings) -> VideoBundle:
    """The bundle that the server was started with."""
    return _open_bundle(settings.bundle, settings, settings.mmproj)


def all_models(settings: Settings, store: ModelStore) -> list[RegisteredModel]:
    """The bundle, the models of the store, and the vision GGUFs of this machine.

    Models with missing files are left out.
    """
    names = [
        open_registered_bundle(settings).name,
        *(manifest.name for manifest in store.manifests()),
    ]
    names += [
        model.label if model.source == "Ollama" else model.name
        for model in find.stored_models()
        if model.path.is_file() and _mmproj(model.path, stamp(model.path))
    ]
    models = []
    for name in names:
        try:
            registered = look_up_model(name, settings, store)
            registered.details()  # raises for a file that cannot be read
            models.append(registered)
        except (GGUFError, ModelStoreError, OSError):
            continue
    return models


def delete_stored_model(name: str, settings: Settings, store: ModelStore) -> None:
    """Delete a model. Raises ModelStoreError: 404 if there is none, 403 if not in the store."""
    if store.get(name) is None:
        registered = look_up_model(name, settings, store)
        raise ModelStoreError(
            f"{registered.service_name} is not of this server's store: remove its files", 403
        )
    store.delete(name)


def _is_allowed(name: str, settings: Settings) -> bool:
    """Whether a name is no path, or a path in a folder that is allowed."""
    if name.startswith((HUB_PREFIX, OLLAMA_PREFIX)) or not (
        os.sep in name or name.startswith(("~", "."))
    ):
        return True
    try:
        real = Path(os.path.realpath(expand_user(name)))
    except (OSError, ValueError, RuntimeError):  # no valid path
        return False
    return any(real.is_relative_to(os.path.realpath(folder)) for folder in settings.allow_dirs)


def _llm_path(settings: Settings, bundle: VideoBundle) -> Path:
    return find.resolve(settings.llm) if settings.llm else bundle.llm_path()


def _is_served(path: Path, settings: Settings, bundle: VideoBundle) -> bool:
    """Whether a GGUF is the one that the server was started with."""
    with suppress(GGUFError, OSError):
        return path.samefile(_llm_path(settings, bundle))
    return False


def _if_width_fits(bundle: VideoBundle, path: Path) -> VideoBundle | None:
    """The bundle, or None if its soft tokens have another width than this model's embeddings."""
    file = read_header(path)
    width = file.metadata.get(f"{file.metadata.get('general.architecture')}.embedding_length")
    return bundle if width == bundle.n_embd else None


# Open bundles, whose weights are in memory, by how they were opened; the most recently used last.
_opened: dict[tuple[str, bool, bool, Path | None], VideoBundle] = {}
_opening = threading.Lock()


def _open_bundle(name: str, settings: Settings, mmproj: Path | None = None) -> VideoBundle:
    """Open a bundle, or return the open one if its files have not changed."""
    from reellama.models.open_bundle import open_bundle

    tiles, use_gpu = settings.tiles, settings.n_gpu_layers != 0
    key = (name, tiles, use_gpu, mmproj)
    with _opening:
        bundle = _opened.pop(key, None)
        if bundle is None or bundle.changed:
            bundle = open_bundle(name, mmproj, tiles=tiles, use_gpu=use_gpu)
        _opened[key] = bundle
        while len(_opened) > MAX_BUNDLES:
            del _opened[next(iter(_opened))]
    return bundle


def _vision_bundle(path: Path, settings: Settings) -> VideoBundle | None:
    """The bundle of an LLM and its own mmproj, if it has one."""
    return _open_bundle(str(path), settings) if _mmproj(path, stamp(path)) else None


@lru_cache(maxsize=256)
def _mmproj(path: Path, _stamp: tuple[int, int]) -> Path | None:
    try:
        return find_mmproj(path)
    except GGUFError:
        return None
