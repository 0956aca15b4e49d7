"""A cache of measurements of model files, by content.

A result is a small JSON file with a copy of the model's header beside it, from which the memory
for another context can be computed without the model. The copy is as long as the model, but in
place of the weights it has a hole, which takes no space on the disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reellama.gguf_tools.atomic_write import replacing, write_atomically
from reellama.gguf_tools.format.reader import GGUFFile, read_gguf
from reellama.gguf_tools.format.split_files import read_model
from reellama.gguf_tools.format.split_names import part_names
from reellama.gguf_tools.measuring.divergence import Estimate


@dataclass(frozen=True)
class Result:
    """The measurements of a file; see `selection.Measured` for their units."""

    kl: Estimate
    same_top: Estimate
    speed: Estimate
    peak_rss: int


class ResultsFolder:
    """A folder with a subfolder for each result."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: dict[str, Any]) -> tuple[Result, GGUFFile] | None:
        """The result of a key and the model's header, or None if missing or damaged."""
        folder = self._subfolder(key)
        try:
            entry = json.loads((folder / "result.json").read_text(encoding="utf-8"))
            values: dict[str, Any] = {
                name: Estimate(**value) if isinstance(value, dict) else value
                for name, value in entry["result"].items()
            }
            return Result(**values), read_model(folder / entry["header"])
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None

    def put(self, key: dict[str, Any], result: Result, model: Path) -> None:
        """Store the result of the file `model`."""
        folder = self._subfolder(key)
        folder.mkdir(parents=True, exist_ok=True)
        for name in part_names(model.name):
            with replacing(folder / name) as temporary:
                _copy_header(model.with_name(name), temporary)
        plain = {
            name: value._asdict() if isinstance(value, Estimate) else value
            for name, value in vars(result).items()
        }
        entry = {"key": key, "header": model.name, "result": plain}
        write_atomically(folder / "result.json", json.dumps(entry, indent=1) + "\n")

    def _subfolder(self, key: dict[str, Any]) -> Path:
        text = json.dumps(key, sort_keys=True)
        return self._folder / hashlib.sha256(text.encode()).hexdigest()[:32]


def _copy_header(source: Path, target: Path) -> None:
    """Copy the bytes before the weights, and leave a hole in place of the weights."""
    offsets = [tensor.offset for tensor in read_gguf(source).tensors.values()]
    size = source.stat().st_size
    with source.open("rb") as data, target.open("wb") as copy:
        for chunk in _chunks(data, min(offsets, default=size)):
            copy.write(chunk)
        copy.truncate(size)


def _chunks(data: Any, n_bytes: int) -> Iterator[bytes]:
    while n_bytes and (chunk := data.read(min(n_bytes, 1 << 20))):
        yield chunk
        n_bytes -= len(chunk)
