"""Write GGUF files with new metadata, and with tensors copied from other files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from reellama.gguf_tools.atomic_write import replacing
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.header_writer import TensorInfo, header_bytes, padding
from reellama.gguf_tools.format.reader import DEFAULT_ALIGNMENT, GGUFFile, Tensor, read_gguf
from reellama.gguf_tools.format.split_files import check_named_as_split
from reellama.gguf_tools.format.split_names import part_names

CHUNK = 8 << 20  # bytes that are copied at a time

CopyProgress = Callable[[int, int], None]  # bytes copied, total


class StoredTensor(NamedTuple):
    """A tensor and its file."""

    path: Path
    tensor: Tensor

    @property
    def info(self) -> TensorInfo:
        """The tensor's entry in a header."""
        return TensorInfo(self.tensor.name, self.tensor.shape, self.tensor.type)


class NewFile(NamedTuple):
    """A file to be written: its metadata, each entry as bytes, and its tensors in order."""

    path: Path
    entries: Mapping[str, bytes]
    tensors: Sequence[StoredTensor]

    @property
    def n_bytes(self) -> int:
        """Bytes of its tensors."""
        return sum(stored.tensor.n_bytes for stored in self.tensors)


def parts_of(path: Path) -> list[GGUFFile]:
    """The headers of all files of a model. path: of the first one.

    Raises GGUFError for a part that is missing, damaged or renamed, and ReellamaError for an
    alignment other than the default, which cannot be written here.
    """
    first = read_gguf(path)
    check_named_as_split(first)
    names = part_names(path.name) if first.metadata.get("split.count", 0) > 1 else [path.name]
    parts = [first, *(read_gguf(path.with_name(name)) for name in names[1:])]
    for part in parts:
        if part.metadata.get("general.alignment", DEFAULT_ALIGNMENT) != DEFAULT_ALIGNMENT:
            raise ReellamaError(f"{part.path} has a general.alignment that is not written here")
    return parts


def stored_tensors(parts: Sequence[GGUFFile]) -> list[StoredTensor]:
    """All tensors of a model's files, in the order of their data."""
    return [
        StoredTensor(part.path, tensor)
        for part in parts
        for tensor in sorted(part.tensors.values(), key=lambda tensor: tensor.offset)
    ]


def check_targets(files: Sequence[NewFile], sources: Sequence[GGUFFile], *, force: bool) -> None:
    """Raise ReellamaError for files that exist or are a source, and for a disk too full."""
    folder = files[0].path.parent
    for file in files:
        if file.path.exists() and any(file.path.samefile(source.path) for source in sources):
            raise ReellamaError(f"{file.path} is the source itself; give another --output")
        if file.path.exists() and not force:
            raise ReellamaError(f"{file.path} exists; --force replaces it")
    if not folder.is_dir():
        raise ReellamaError(f"cannot save {files[0].path}: there is no folder {folder}")
    needed, free = sum(file.n_bytes for file in files), shutil.disk_usage(folder).free
    if needed > free:
        raise ReellamaError(
            f"{needed / 1e9:.2f} GB are needed in {folder.absolute()}, and {free / 1e9:.2f} GB are "
            "free: make room, or give another folder as --output"
        )


def write_files(files: Sequence[NewFile], progress: CopyProgress | None = None) -> None:
    """Write files one after another, each atomically. An error removes those written before."""
    total, done = sum(file.n_bytes for file in files), 0
    written: list[Path] = []
    try:
        for file in files:
            with replacing(file.path) as temporary, temporary.open("wb") as out:
                out.write(header_bytes(file.entries, [stored.info for stored in file.tensors]))
                for stored in file.tensors:
                    _copy(stored, out)
                    done += stored.tensor.n_bytes
                    if progress:
                        progress(done, total)
            written.append(file.path)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise


def _copy(stored: StoredTensor, out: BinaryIO) -> None:
    with stored.path.open("rb") as source:
        source.seek(stored.tensor.offset)
        left = stored.tensor.n_bytes
        while left:
            data = source.read(min(CHUNK, left))
            if not data:
                raise ReellamaError(f"{stored.path} became shorter while it was read")
            out.write(data)
            left -= len(data)
    out.write(padding(stored.tensor.n_bytes))
