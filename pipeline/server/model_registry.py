"""The models that the server can answer with, and Ollama's entries about them."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reellama.gguf_tools.atomic_write import stamp
from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.format.model_summary import quantization
from reellama.gguf_tools.format.reader import GGUFFile, read_gguf
from reellama.gguf_tools.format.split_names import part_names
from reellama.gguf_tools.inspection.file_summary import json_value
from reellama.gguf_tools.locate import find
from reellama.gguf_tools.locate.naming import HUB_PREFIX, OLLAMA_PREFIX
from reellama.gguf_tools.locate.vision_models import find_mmproj
from reellama.pipeline.server.model_store import (
    DEFAULT_TAG,
    Manifest,
    ModelStore,
    ModelStoreError,
    model_not_found,
    short_name,
)

if TYPE_CHECKING:
    from reellama.models.open_bundle import VideoBundle
    from reellama.pipeline.llm.tool_calls.chat_format import ChatFormat
    from reellama.pipeline.server.settings import Settings

MAX_BUNDLES = 8  # open at a time


@dataclass(frozen=True)
class RegisteredModel:
    """A model that the server can answer with.

    Attributes:
        service_name: its name for `reellama.pipeline.server.service.Service`.
        path: its GGUF, or the first part of it.
        manifest: its manifest in the store; for a bundle or a file, one made of what is known.
        bundle: encodes pictures and videos for it; None where it takes text alone.
    """

    service_name: str
    path: Path
    manifest: Manifest
    bundle: VideoBundle | None

    @property
    def files(self) -> list[Path]:
        """Paths of all parts of the GGUF."""
        return [self.path.with_name(name) for name in part_names(self.path.name)]

    @property
    def gguf(self) -> GGUFFile:
        """The header of the GGUF."""
        return _header(self.path, stamp(self.path))

    @property
    def size(self) -> int:
        """Bytes of the GGUF."""
        return sum(path.stat().st_size for path in self.files)

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of its manifest, its file's place, size and date, its bundle."""
        key_fields = [self.manifest.digest, str(self.path), *stamp(self.path)]
        key_fields += [self.bundle.version] if self.bundle else []
        return hashlib.sha256(json.dumps(key_fields).encode()).hexdigest()

    @property
    def modified_at(self) -> str:
        """When the model was made, ISO 8601."""
        date = datetime.fromtimestamp(self.path.stat().st_mtime, timezone.utc)
        return self.manifest.modified_at or date.isoformat()

    def capabilities(self, chat_format: ChatFormat) -> list[str]:
        """Its capabilities, in Ollama's words, and "video", which Ollama does not know.

        A file that says how its vectors are pooled is there for embeddings, as in Ollama. All
        others can be told of tools.
        """
        architecture = self.gguf.metadata.get("general.architecture")
        if f"{architecture}.pooling_type" in self.gguf.metadata:
            return ["embedding"]
        sees = ["vision", "video"] if self.bundle else []
        thinks = ["thinking"] if chat_format.reasoning else []
        return ["completion", *sees, "tools", *thinks]

    def details(self) -> dict[str, Any]:
        """`details` in tags, ps and show."""
        file = self.gguf
        family = str(file.metadata.get("general.architecture", "unknown"))
        return {
            "parent_model": self.manifest.parent,
            "format": "gguf",
            "family": family,
            "families": [family],
            "parameter_size": human_number(self.n_parameters),
            "quantization_level": quantization(file),
        }

    @property
    def n_parameters(self) -> int:
        """How many weights the model has."""
        headers = [self.gguf, *map(read_gguf, self.files[1:])]
        return sum(t.n_elements for file in headers for t in file.tensors.values())

    def entry(self, chat_format: ChatFormat) -> dict[str, Any]:
        """The model's entry in /api/tags."""
        return {
            "name": self.manifest.name,
            "model": self.manifest.name,
            "modified_at": self.modified_at,
            "size": self.size,
            "digest": self.digest,
            "details": self.details(),
            "capabilities": self.capabilities(chat_format),
        }

    def show(self, chat_format: ChatFormat, verbose: bool) -> dict[str, Any]:
        """What /api/show says; long lists of the header are there only when `verbose`."""
        manifest, file = self.manifest, self.gguf
        template = manifest.template or file.chat_template or ""
        info = {key: json_value(key, value) for key, value in file.metadata.items()}
        if verbose:
            info |= {k: v for k, v in file.metadata.items() if isinstance(v, list)}
        else:  # null, as in Ollama's API
            info |= {key: None for key, value in info.items() if isinstance(value, dict)}
        shown = {
            "license": "\n".join(manifest.license),
            "modelfile": self.modelfile(template),
            "parameters": "\n".join(parameter_lines(manifest.parameters)),
            "template": template,
            "system": manifest.system,
            "details": self.details(),
            "messages": list(manifest.messages),
            "model_info": {**info, "general.parameter_count": self.n_parameters},
            "capabilities": self.capabilities(chat_format),
            "modified_at": self.modified_at,
        }
        if verbose:
            tensors = file.tensors.values()
            shown["tensors"] = [
                {"name": t.name, "type": t.type.name, "shape": list(t.shape)} for t in tensors
            ]
        return {key: value for key, value in shown.items() if value or key == "modelfile"}

    def modelfile(self, template: str) -> str:
        """The model as a Modelfile."""
        manifest = self.manifest
        lines = [f"# Modelfile of {manifest.name}", f"FROM {self.path.name}"]
        lines += [f"ADAPTER {Path(adapter).name}" for adapter in manifest.adapters]
        lines += [f'TEMPLATE """{template}"""'] if template else []
        lines += [f'SYSTEM """{manifest.system}"""'] if manifest.system else []
        lines += [f"PARAMETER {line}" for line in parameter_lines(manifest.parameters)]
        lines += [f'LICENSE """{text}"""' for text in manifest.license]
        lines += [f"MESSAGE {m['role']} {m['content']}" for m in manifest.messages]
        return "\n".join(lines) + "\n"


def look_up_model(name: str, settings: Settings, store: ModelStore) -> RegisteredModel:
    """The model of this name: the store's, the bundle, or a GGUF file on this machine.

    A path is no name for a client, unless it lies in a folder that is allowed. Raises
    ModelStoreError with status 404 when there is none.
    """
    server_bundle = open_registered_bundle(settings)
    if manifest := store.get(name):
        bundle = _open_bundle(manifest.bundle) if manifest.bundle else server_bundle
        path = store.file(manifest.llm) if manifest.llm else _llm_path(settings, bundle)
        return RegisteredModel(manifest.name, path, manifest, _if_width_fits(bundle, path))
    short = short_name(name)
    if short.lower() == server_bundle.name.lower():
        path = _llm_path(settings, server_bundle)
        manifest = Manifest(f"{server_bundle.name}:{DEFAULT_TAG}", system=server_bundle.system)
        return RegisteredModel(
            server_bundle.name, path, manifest, _if_width_fits(server_bundle, path)
        )
    try:
        if not _may_be_asked_for(short, settings):
            raise GGUFError("a path outside of the folders that are allowed")
        path = find.resolve(short)
    except GGUFError as error:
        raise model_not_found(name) from error
    fitting = _vision_bundle(path) or _if_width_fits(server_bundle, path)
    return RegisteredModel(short, path, Manifest(name, llm=str(path)), fitting)


def open_registered_bundle(settings: Settings) -> VideoBundle:
    """The bundle that the server was started with."""
    return _open_bundle(settings.bundle, settings.mmproj)


def all_models(settings: Settings, store: ModelStore) -> list[RegisteredModel]:
    """The bundle, the models of the store, and the vision GGUFs of this machine.

    Models with lost files are passed over.
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
    """Forget a model. Raises ModelStoreError: 404 for none, 403 for one outside of the store."""
    if store.get(name) is None:
        registered = look_up_model(name, settings, store)
        raise ModelStoreError(
            f"{registered.service_name} is not of this server's store: remove its files", 403
        )
    store.delete(name)


def human_number(n: int) -> str:
    """A number of parameters, as Ollama writes it.

    >>> human_number(134_515_008), human_number(8_030_261_312), human_number(999)
    ('134.52M', '8.0B', '999')
    """
    if n >= 10**9:
        return f"{n / 1e9:.1f}B"
    if n >= 10**6:
        return f"{n / 1e6:.2f}M"
    return f"{n / 1e3:.0f}K" if n >= 10**3 else str(n)


def parameter_lines(parameters: dict[str, Any]) -> list[str]:
    """One line a value, as Ollama's show has them."""
    pairs = [
        (name, value)
        for name, given in sorted(parameters.items())
        for value in (given if isinstance(given, list) else [given])
    ]
    return [f"{name:30} {json.dumps(value, ensure_ascii=False)}" for name, value in pairs]


def _may_be_asked_for(name: str, settings: Settings) -> bool:
    if name.startswith((HUB_PREFIX, OLLAMA_PREFIX)) or not (
        os.sep in name or name.startswith(("~", "."))
    ):
        return True
    try:
        real = Path(os.path.realpath(Path(name).expanduser()))
    except (OSError, ValueError, RuntimeError):  # no path at all: see `find.resolve`
        return False
    return any(real.is_relative_to(os.path.realpath(folder)) for folder in settings.allow_dirs)


def _llm_path(settings: Settings, bundle: VideoBundle) -> Path:
    return find.resolve(settings.llm) if settings.llm else bundle.llm_path()


def _if_width_fits(bundle: VideoBundle, path: Path) -> VideoBundle | None:
    """The bundle, if its soft tokens are as wide as the embeddings of this model."""
    file = _header(path, stamp(path))
    width = file.metadata.get(f"{file.metadata.get('general.architecture')}.embedding_length")
    return bundle if width == bundle.n_embd else None


# Bundles that were opened, by name, the last used last: their weights stay in memory.
_opened: dict[tuple[str, Path | None], VideoBundle] = {}
_opening = threading.Lock()


def _open_bundle(name: str, mmproj: Path | None = None) -> VideoBundle:
    """A bundle, opened once, and again when its files have changed."""
    from reellama.models.open_bundle import open_bundle

    with _opening:
        bundle = _opened.pop((name, mmproj), None)
        if bundle is None or bundle.changed:
            bundle = open_bundle(name, mmproj)
        _opened[name, mmproj] = bundle
        while len(_opened) > MAX_BUNDLES:
            del _opened[next(iter(_opened))]
    return bundle


def _vision_bundle(path: Path) -> VideoBundle | None:
    """The bundle of an LLM and its own mmproj, if it has one."""
    return _open_bundle(str(path)) if _mmproj(path, stamp(path)) else None


@lru_cache(maxsize=256)
def _mmproj(path: Path, _stamp: tuple[int, int]) -> Path | None:
    try:
        return find_mmproj(path)
    except GGUFError:
        return None


@lru_cache(maxsize=32)
def _header(path: Path, _stamp: tuple[int, int]) -> GGUFFile:
    return read_gguf(path)
