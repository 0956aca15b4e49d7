"""A model that clients can use, and its descriptions in Ollama's protocol."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reellama.gguf_tools.atomic_write import stamp
from reellama.gguf_tools.format.model_summary import quantization
from reellama.gguf_tools.format.reader import GGUFFile, read_gguf
from reellama.gguf_tools.format.split_names import part_names
from reellama.gguf_tools.inspection.file_summary import json_value
from reellama.pipeline.server.model_registry.model_store import Manifest

if TYPE_CHECKING:
    from reellama.models.open_bundle import VideoBundle
    from reellama.pipeline.llm.tool_calls.chat_format import ChatFormat


@dataclass(frozen=True)
class RegisteredModel:
    """A model that clients can use.

    Attributes:
        service_name: its name for `reellama.pipeline.server.service.Service`.
        path: its GGUF, or the first part of it.
        manifest: its manifest in the store; for a bundle or a GGUF, an equivalent one.
        bundle: encodes pictures and videos; None if the model takes text alone.
        is_trusted: whether its GGUF is the one that the server was started with. Clients can have
            others pulled, and upload them.
    """

    service_name: str
    path: Path
    manifest: Manifest
    bundle: VideoBundle | None
    is_trusted: bool = False

    @property
    def files(self) -> list[Path]:
        """Paths of all parts of the GGUF."""
        return [self.path.with_name(name) for name in part_names(self.path.name)]

    @property
    def gguf(self) -> GGUFFile:
        """The header of the GGUF."""
        return read_header(self.path)

    @property
    def size(self) -> int:
        """Bytes of the GGUF."""
        return sum(path.stat().st_size for path in self.files)

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of manifest, path, size and date of the GGUF, and bundle."""
        key_fields = [self.manifest.digest, str(self.path), *stamp(self.path)]
        key_fields += [self.bundle.version] if self.bundle else []
        return hashlib.sha256(json.dumps(key_fields).encode()).hexdigest()

    @property
    def modified_at(self) -> str:
        """When the model was created, ISO 8601."""
        date = datetime.fromtimestamp(self.path.stat().st_mtime, timezone.utc)
        return self.manifest.modified_at or date.isoformat()

    def capabilities(self, chat_format: ChatFormat) -> list[str]:
        """The model's capabilities by Ollama's names, and "video", which is not one of Ollama's.

        As in Ollama, a GGUF with a pooling type is an embedding model. All others can use tools.
        """
        architecture = self.gguf.metadata.get("general.architecture")
        if f"{architecture}.pooling_type" in self.gguf.metadata:
            return ["embedding"]
        vision = ["vision", "video"] if self.bundle else []
        thinking = ["thinking"] if chat_format.reasoning else []
        return ["completion", *vision, "tools", *thinking]

    def details(self) -> dict[str, Any]:
        """The field `details` of /api/tags, /api/ps and /api/show."""
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
        """The reply of /api/show, with long lists of the header only if `verbose`."""
        manifest, file = self.manifest, self.gguf
        template = manifest.template or file.chat_template or ""
        info = {key: json_value(key, value) for key, value in file.metadata.items()}
        if verbose:
            info |= {k: v for k, v in file.metadata.items() if isinstance(v, list)}
        else:  # null in place of the lists, as in Ollama's API
            info |= {key: None for key, value in info.items() if isinstance(value, dict)}
        fields = {
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
            fields["tensors"] = [
                {"name": t.name, "type": t.type.name, "shape": list(t.shape)} for t in tensors
            ]
        return {key: value for key, value in fields.items() if value or key == "modelfile"}

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


def human_number(n: int) -> str:
    """A number of parameters in Ollama's notation.

    >>> human_number(134_515_008), human_number(8_030_261_312), human_number(999)
    ('134.52M', '8.0B', '999')
    """
    if n >= 10**9:
        return f"{n / 1e9:.1f}B"
    if n >= 10**6:
        return f"{n / 1e6:.2f}M"
    return f"{n / 1e3:.0f}K" if n >= 10**3 else str(n)


def parameter_lines(parameters: dict[str, Any]) -> list[str]:
    """One line for each value, like those of /api/show."""
    pairs = [
        (name, value)
        for name, values in sorted(parameters.items())
        for value in (values if isinstance(values, list) else [values])
    ]
    return [f"{name:30} {json.dumps(value, ensure_ascii=False)}" for name, value in pairs]


def read_header(path: Path) -> GGUFFile:
    """The header of a GGUF, cached until the file changes."""
    return _read_header(path, stamp(path))


@lru_cache(maxsize=32)
def _read_header(path: Path, _stamp: tuple[int, int]) -> GGUFFile:
    return read_gguf(path)
