"""Measurements of files, remembered by content.

A result is a small JSON file, with a copy of the model's header beside it: what the file would take
in memory can be counted again for another context without the file. The copy is as long as the
file, but its weights are a hole that takes no room on the disk.
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
    """What was measured of a file."""

    kl: Estimate
    same_top: Estimate
    speed: Estimate
    peak_rss: int  # bytes


class ResultsFolder:
    """Results in a folder, a folder in it for each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: dict[str, Any]) -> tuple[Result, GGUFFile] | None:
        """The result of a key, with the file's header; None where there is none that is whole."""
        place = self._place(key)
        try:
            entry = json.loads((place / "result.json").read_text(encoding="utf-8"))
            values: dict[str, Any] = {
                name: Estimate(**value) if isinstance(value, dict) else value
                for name, value in entry["result"].items()
            }
            return Result(**values), read_model(place / entry["header"])
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None

    def put(self, key: dict[str, Any], result: Result, model: Path) -> None:
        """Keep a result of the file `model`."""
        place = self._place(key)
        place.mkdir(parents=True, exist_ok=True)
        for name in part_names(model.name):
            with replacing(place / name) as temporary:
                _copy_header(model.with_name(name), temporary)
        plain = {
            name: value._asdict() if isinstance(value, Estimate) else value
            for name, value in vars(result).items()
        }
        entry = {"key": key, "header": model.name, "result": plain}
        write_atomically(place / "result.json", json.dumps(entry, indent=1) + "\n")

    def _place(self, key: dict[str, Any]) -> Path:
        text = json.dumps(key, sort_keys=True)
        return self._folder / hashlib.sha256(text.encode()).hexdigest()[:32]


def _copy_header(source: Path, target: Path) -> None:
    """Copy all in front of the weights, and leave a hole in their place."""
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
