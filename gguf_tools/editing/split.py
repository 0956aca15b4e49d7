"""Split a model into several files and join them again, as llama.cpp's gguf-split does.

    split("model.gguf", max_bytes=2 * 10**9)     # model-00001-of-00003.gguf and so on
    join("model-00001-of-00003.gguf", "model.gguf")

The first file has all metadata. Joining gives the original file, byte for byte.
https://github.com/ggml-org/llama.cpp/tree/master/tools/gguf-split
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from gguf.constants import GGUFValueType

from reellama.gguf_tools.editing.model_copy import (
    CopyProgress,
    NewFile,
    StoredTensor,
    check_targets,
    parts_of,
    stored_tensors,
    write_files,
)
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.header_writer import aligned_size, raw_entries, typed_entry
from reellama.gguf_tools.locate import find
from reellama.gguf_tools.user_paths import expand_user

MAX_TENSORS = 128  # default number of tensors in a file, as in gguf-split
MAX_FILES = 99999  # the names have five digits
NUMBER, COUNT, TENSORS = "split.no", "split.count", "split.tensors.count"


def split(
    source: str | Path,
    output: str | Path | None = None,
    *,
    max_bytes: int | None = None,
    max_tensors: int = MAX_TENSORS,
    dry_run: bool = False,
    force: bool = False,
    progress: CopyProgress | None = None,
) -> list[NewFile]:
    """Write a model as several files. A tensor is never divided.

    Args:
        source: a name for `reellama.gguf_tools.locate.find.resolve`, or a path.
        output: prefix of the files' names; None for the source's name in the current folder.
        max_bytes: largest size of the tensors in a file; None to divide by `max_tensors`.
        max_tensors: largest number of tensors in a file.
        dry_run: whether to write nothing.
        force: whether to replace existing files.
        progress: called with the bytes copied and the total.

    Returns:
        The files in order.

    Raises:
        ReellamaError: the model is split already, a file exists, a tensor is larger than
            `max_bytes`, or the disk is too full.
    """
    path = find.resolve(source)
    parts = parts_of(path)
    if len(parts) > 1:
        raise ReellamaError(f"{path} is split already: join it first, with `reellama gguf join`")
    tensors = stored_tensors(parts)
    groups = _groups(tensors, max_bytes, max_tensors)
    if len(groups) > MAX_FILES:
        raise ReellamaError(f"{len(groups):,} files are too many: allow larger ones")
    prefix = expand_user(output or path.name.removesuffix(".gguf"))
    metadata = raw_entries(path)
    files = []
    for number, group in enumerate(groups):
        name = f"{prefix.name}-{number + 1:05}-of-{len(groups):05}.gguf"
        marks = {
            NUMBER: typed_entry(NUMBER, GGUFValueType.UINT16, struct.pack("<H", number)),
            TENSORS: typed_entry(TENSORS, GGUFValueType.INT32, struct.pack("<i", len(tensors))),
            COUNT: typed_entry(COUNT, GGUFValueType.UINT16, struct.pack("<H", len(groups))),
        }
        others = {key: entry for key, entry in metadata.items() if key not in marks}
        entries = others | marks if number == 0 else marks
        files.append(NewFile(prefix.with_name(name), entries, group))
    if not dry_run:
        check_targets(files, parts, force=force)
        write_files(files, progress)
    return files


def join(
    source: str | Path,
    output: str | Path,
    *,
    force: bool = False,
    progress: CopyProgress | None = None,
) -> NewFile:
    """Write the files of a split model as one. Raises as `split` does."""
    path = find.resolve(source)
    parts = parts_of(path)
    if len(parts) == 1:
        raise ReellamaError(f"{path} is one file already")
    entries = {
        key: entry
        for key, entry in raw_entries(path).items()
        if key not in (NUMBER, COUNT, TENSORS)
    }
    file = NewFile(expand_user(output), entries, stored_tensors(parts))
    check_targets([file], parts, force=force)
    write_files([file], progress)
    return file


def _groups(
    tensors: Sequence[StoredTensor], max_bytes: int | None, max_tensors: int
) -> list[list[StoredTensor]]:
    """Tensors in order, a group for each file."""
    groups: list[list[StoredTensor]] = [[]]
    size = 0
    for i, stored in enumerate(tensors):
        own = aligned_size(stored.tensor.n_bytes)
        full = i % max_tensors == 0 if max_bytes is None else size + own > max_bytes
        if i > 0 and full:
            groups.append([])
            size = 0
        if max_bytes is not None and own > max_bytes:
            raise ReellamaError(
                f"the tensor {stored.tensor.name} alone has {own:,} bytes: allow larger files"
            )
        groups[-1].append(stored)
        size += own
    return groups
