"""The quantizations that can be had of a model: made from a file, or of a repository on the hub.

Each is there for only as long as it is measured.
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
# What others are measured against: the first of these that a repository has.
REFERENCE_TYPES = ("F32", "BF16", "F16", "Q8_0", "Q6_K")

Report = Callable[[str], None]


@dataclass(frozen=True)
class Candidate:
    """A file that can be had."""

    type: str
    n_bytes: int  # before it is there, an estimate for one that is quantized
    content: str  # tells its content from any other's


class Source(Protocol):
    """A model in several types, of which the others are measured against the reference."""

    @property
    def name(self) -> str:
        """How a person calls it."""

    @property
    def reference(self) -> Candidate:
        """The type of the highest precision."""

    @property
    def others(self) -> list[Candidate]:
        """All but the reference."""

    def open(self, candidate: Candidate, folder: Path) -> AbstractContextManager[Path]:
        """The file, in `folder` or where it lies; what was made for it is removed afterwards."""

    def commands(self, candidate: Candidate) -> tuple[str, str]:
        """What makes the file ("" where it is there), and the options by which llama.cpp's tools
        take it."""


class LocalModel:
    """A GGUF on this machine, quantized into `types`.

    Raises GGUFError for a file that is none, and ReellamaError for a type that it cannot become.
    """

    def __init__(self, model: str, types: Sequence[str], work: Path) -> None:
        self.path = find.resolve(model)
        file = read_model(self.path)
        content = content_digest(self.path, work)
        self.name = self.path.name
        own = type_of(file)
        self.reference = Candidate(own, file.size, content)
        wanted = [type_.upper() for type_ in types or LOCAL_TYPES if type_.upper() != own]
        made = quantize(self.path, wanted, work, dry_run=True) if wanted else []
        self.others = [
            Candidate(each.type, each.n_bytes, f"{content} as {each.type}") for each in made
        ]
        self.places = {each.type: each.path.name for each in made}

    @contextmanager
    def open(self, candidate: Candidate, folder: Path) -> Iterator[Path]:
        """Quantize into `folder`, or give the file itself."""
        if candidate == self.reference:
            yield self.path
            return
        [made] = quantize(self.path, candidate.type, folder / self.places[candidate.type])
        try:
            yield made.path
        finally:
            made.path.unlink()

    def commands(self, candidate: Candidate) -> tuple[str, str]:
        """See Source."""
        if candidate == self.reference:
            return "", f"-m {self.path}"
        name = self.places[candidate.type]
        return f"reellama gguf quantize {self.path} {candidate.type} -o {name}", f"-m {name}"


class HubModel:
    """A repository on the hub, with a file or some parts for each type.

    Files that the hub's cache has are read there; others are downloaded for the time that they are
    measured. Raises HubError where the hub does not answer, and GGUFError for a repository without
    types that can be compared.
    """

    def __init__(
        self, model: str, types: Sequence[str], report: Report, progress: FileProgress
    ) -> None:
        self.repo, wanted, self.revision = split_hub_name(model)
        self.name = self.repo
        self._report, self._progress = report, progress
        if wanted:
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
        """Download into `folder`, or give what the hub's cache has."""
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
        places = [folder / PurePosixPath(file.name).name for file in files]
        try:
            for file, place in zip(files, places, strict=True):
                self._fetch(file, place)
            yield places[0]
        finally:
            for place in places:
                place.unlink(missing_ok=True)

    def _fetch(self, file: HubFile, place: Path) -> None:
        doing = f"downloading {file.name}"
        hub.download(file, place, lambda done: self._progress(doing, done, file.size), self._report)
        if digest(file, place, self._progress) != file.etag:
            raise GGUFError(f"{file} was damaged on the way; the same command downloads it again")

    def _in_cache(self, candidate: Candidate) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        found = [
            try_to_load_from_cache(
                self.repo, file.name, cache_dir=hub_cache(), revision=file.commit
            )
            for file in self._files[candidate.type]
        ]
        paths = [Path(path) for path in found if isinstance(path, str)]
        return paths[0] if len(paths) == len(found) else None

    def commands(self, candidate: Candidate) -> tuple[str, str]:
        """See Source."""
        name = f"{self.repo}@{self.revision}" if self.revision else self.repo
        name = f"{name}:{candidate.type}"
        return f"reellama gguf pull {name}", f'-m "$(reellama gguf pull {name})"'


def content_digest(path: Path, work: Path) -> str:
    """The SHA-256 of all parts of a model, remembered in `work` by place, size and date."""
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
