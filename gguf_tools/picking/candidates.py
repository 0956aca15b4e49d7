"""The quantizations of a model to pick from: made from a file, or in a repository on the hub.

A candidate's file exists only while it is measured.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from reellama.gguf_tools.atomic_write import stamp, write_atomically
from reellama.gguf_tools.download import hub
from reellama.gguf_tools.download.hub import HubFile
from reellama.gguf_tools.download.pull import FileProgress, digest
from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.format.split_files import read_model
from reellama.gguf_tools.format.split_names import part_names
from reellama.gguf_tools.locate import find
from reellama.gguf_tools.locate.naming import (
    HUB_PREFIX,
    is_mmproj_name,
    short_names,
    split_hub_name,
)
from reellama.gguf_tools.locate.stores import hub_cache
from reellama.gguf_tools.measuring.compare import type_of
from reellama.gguf_tools.quantization.quantize import quantize
from reellama.gguf_tools.sizes import show_size

LOCAL_TYPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M")
# The reference that others are measured against is the first of these that a repository has.
REFERENCE_TYPES = ("F32", "BF16", "F16", "Q8_0", "Q6_K")

Report = Callable[[str], None]


@dataclass(frozen=True)
class Candidate:
    """A quantization that can be quantized or downloaded."""

    type: str
    n_bytes: int  # an estimate, for a file that is quantized
    content: str  # identifies the content, for caches


class Source(Protocol):
    """A model in several types."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def reference(self) -> Candidate:
        """The type of the highest precision, which others are measured against."""

    @property
    def others(self) -> list[Candidate]:
        """All candidates except the reference."""

    def open(self, candidate: Candidate, folder: Path) -> AbstractContextManager[Path]:
        """A context with a candidate's file. A file made in `folder` is removed at its end."""

    def commands(self, candidate: Candidate) -> tuple[str, str]:
        """The command that makes the file ("" if it exists), and the options of llama.cpp's tools
        for it."""


class LocalModel:
    """A GGUF on this machine, quantized into `types`.

    Raises GGUFError for a file that cannot be read, and ReellamaError for a type that it cannot be
    quantized into.
    """

    def __init__(self, model: str, types: Sequence[str], work: Path) -> None:
        self.path = find.resolve(model)
        file = read_model(self.path)
        content = content_digest(self.path, work)
        self.name = self.path.name
        own = type_of(file)
        self.reference = Candidate(own, file.size, content)
        targets = [type_.upper() for type_ in types or LOCAL_TYPES if type_.upper() != own]
        planned = quantize(self.path, targets, work, dry_run=True) if targets else []
        self.others = [
            Candidate(output.type, output.n_bytes, f"{content} as {output.type}")
            for output in planned
        ]
        self.file_names = {output.type: output.path.name for output in planned}

    @contextmanager
    def open(self, candidate: Candidate, folder: Path) -> Iterator[Path]:
        """See Source."""
        if candidate == self.reference:
            yield self.path
            return
        [output] = quantize(self.path, candidate.type, folder / self.file_names[candidate.type])
        try:
            yield output.path
        finally:
            output.path.unlink()

    def commands(self, candidate: Candidate) -> tuple[str, str]:
        """See Source."""
        if candidate == self.reference:
            return "", f"-m {self.path}"
        name = self.file_names[candidate.type]
        return f"reellama gguf quantize {self.path} {candidate.type} -o {name}", f"-m {name}"


class HubModel:
    """A repository on the hub, with a file or the files of a split model for each type.

    Files in the hub's cache are used there; others are downloaded and removed after they are
    measured. Raises HubError if the hub does not answer, and GGUFError for a repository without a
    reference type or without one of `types`.
    """

    def __init__(
        self, model: str, types: Sequence[str], report: Report, progress: FileProgress
    ) -> None:
        self.repo, quant_or_file, self.revision = split_hub_name(model)
        self.name = self.repo
        self._report, self._progress = report, progress
        if quant_or_file:
            raise GGUFError(f"{model} is one file; to pick among all write {HUB_PREFIX}{self.repo}")
        names = hub.list_files(self.repo, report, self.revision)
        firsts = sorted({part_names(n)[0] for n in names if n.lower().endswith(".gguf")})
        models = [name for name in firsts if not is_mmproj_name(name)]
        by_type = {short: name for name, short in short_names(models).items()}
        reference = next((t for t in REFERENCE_TYPES if t in by_type), None)
        if reference is None:
            raise GGUFError(
                f"{self.repo} has none of {', '.join(REFERENCE_TYPES)} to measure others against"
            )
        chosen = [type_.upper() for type_ in types] or [*by_type]
        if missing := [type_ for type_ in chosen if type_ not in by_type]:
            raise GGUFError(f"{self.repo} has no {missing[0]}; it has {', '.join(by_type)}")
        self._files: dict[str, list[HubFile]] = {
            type_: [
                hub.file_info(self.repo, part, report, self.revision)
                for part in part_names(by_type[type_])
            ]
            for type_ in {reference: None} | dict.fromkeys(chosen)
        }
        self.reference, *self.others = (
            Candidate(
                type_, sum(file.size for file in files), " ".join(file.etag for file in files)
            )
            for type_, files in self._files.items()
        )

    @contextmanager
    def open(self, candidate: Candidate, folder: Path) -> Iterator[Path]:
        """See Source."""
        if (cached := self._in_cache(candidate)) is not None:
            yield cached
            return
        files = self._files[candidate.type]
        free = shutil.disk_usage(folder).free
        if candidate.n_bytes > free:
            raise GGUFError(
                f"{self.repo}, {candidate.type}, has {show_size(candidate.n_bytes)}, and {folder} "
                f"has {show_size(free)} free; make room, or set REELLAMA_CACHE to a folder on a "
                "larger disk"
            )
        paths = [folder / PurePosixPath(file.name).name for file in files]
        try:
            for file, path in zip(files, paths, strict=True):
                self._fetch(file, path)
            yield paths[0]
        finally:
            for path in paths:
                path.unlink(missing_ok=True)

    def _fetch(self, file: HubFile, path: Path) -> None:
        """Download a file and verify its hash."""
        activity = f"downloading {file.name}"
        hub.download(
            file, path, lambda done: self._progress(activity, done, file.size), self._report
        )
        if digest(file, path, self._progress) != file.etag:
            raise GGUFError(f"{file} was damaged on the way; the same command downloads it again")

    def _in_cache(self, candidate: Candidate) -> Path | None:
        """The candidate's first file in the hub's cache, or None unless all are there."""
        from huggingface_hub import try_to_load_from_cache

        cached = [
            try_to_load_from_cache(
                self.repo, file.name, cache_dir=hub_cache(), revision=file.commit
            )
            for file in self._files[candidate.type]
        ]
        paths = [Path(path) for path in cached if isinstance(path, str)]
        return paths[0] if len(paths) == len(cached) else None

    def commands(self, candidate: Candidate) -> tuple[str, str]:
        """See Source."""
        name = f"{self.repo}@{self.revision}" if self.revision else self.repo
        name = f"{name}:{candidate.type}"
        return f"reellama gguf pull {name}", f'-m "$(reellama gguf pull {name})"'


def content_digest(path: Path, work: Path) -> str:
    """The SHA-256 of all files of a model, cached in `work` by path, size and date."""
    digests = []
    for name in part_names(path.name):
        part = Path(os.path.realpath(path.with_name(name)))
        key = json.dumps([str(part), *stamp(part)])
        cache_path = work / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.sha256"
        if not cache_path.exists():
            with part.open("rb") as data:
                write_atomically(cache_path, file_digest(data))
        digests.append(cache_path.read_text(encoding="utf-8"))
    return " ".join(digests)


def file_digest(data: BinaryIO) -> str:
    """The SHA-256 of an open file, in hexadecimal."""
    digest = hashlib.sha256()
    while chunk := data.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
