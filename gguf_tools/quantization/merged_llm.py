"""A cache of LLMs with LoRA adapters merged in.

An adapter beside a model adds two small matrix products, a scaling and a sum to the graph for each
changed weight, which costs a fifth to a third of the speed. Merged into weights of Q8_0 it costs
nothing, and no difference of the answers was measured (`python -m benchmarks.merged_adapter`), as
Q8_0 has more bits than the base's weights. The file is larger than the base, so large models, whose
speed is bound by reading their weights, are not merged.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from reellama.gguf_tools.atomic_write import mark_used, stamp
from reellama.gguf_tools.cache_root import cache_root
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import read_gguf

MERGED_LLMS = cache_root() / "merged-llms"
KEY = "reellama.merged_from"  # in the metadata of a merged file: the digest of its sources
MAX_BYTES = 512 << 20  # of a merged file
MAX_FILES = 4  # the last used ones are kept
ABANDONED_AFTER = 3600.0  # seconds; no process takes so long to write a file of MAX_BYTES
_FORMAT = "merged 1"

Adapters = Sequence[tuple[Path, float]]  # paths with scales


def find_merged(base: Path, adapters: Adapters, folder: Path) -> Path | None:
    """The merged file of `base` and `adapters` in `folder`, or None if missing or damaged."""
    if not adapters:
        return None
    try:
        key = _key(base, adapters)
        path = _path(folder, key)
        if read_gguf(path).metadata.get(KEY) != key:
            return None
        mark_used(path)
    except (OSError, ReellamaError):
        return None
    return path


def make_merged(base: Path, adapters: Adapters, folder: Path) -> Path | None:
    """The file of `find_merged`, made if missing; None without adapters, or for a large LLM.

    One process makes the file while others wait. Raises ReellamaError for adapters that do not fit,
    and for a file that cannot be written.
    """
    if not adapters:
        return None
    if merged := find_merged(base, adapters, folder):
        return merged
    # Imported here, as calls that find a merged file need none of these modules.
    from filelock import FileLock

    from reellama.gguf_tools.quantization.lora_merge import (
        changed_tensors,
        merge_where_changed,
        open_adapters,
    )

    file = read_gguf(base)
    if (
        sum(info.n_bytes for info in changed_tensors(file, open_adapters(file, adapters)))
        > MAX_BYTES
    ):
        return None
    key = _key(base, adapters)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(folder / "lock"):
            if merged := find_merged(base, adapters, folder):
                return merged
            merge_where_changed(base, adapters, _path(folder, key), {KEY: key})
            mark_used(_path(folder, key))
            _trim(folder)
    except OSError as error:
        raise ReellamaError(f"cannot write into {folder}: {error.strerror}") from error
    return _path(folder, key)


def merged_or_beside(
    base: Path, adapters: Adapters, folder: Path | None, *, make: bool
) -> tuple[Path, list[tuple[Path, float]]]:
    """The model file and the adapters to load for `base` with `adapters`.

    These are the merged file and no adapters if `folder` has that file, or with `make` if it can be
    made; else `base` and `adapters`.
    """
    if folder is not None:
        with suppress(ReellamaError):
            if merged := (make_merged if make else find_merged)(base, adapters, folder):
                return merged, []
    return base, list(adapters)


def _key(base: Path, adapters: Adapters) -> str:
    """SHA-256 of the adapters' bytes and scales, and of the base's path, size and date.

    To hash the whole base at every start would take longer than to load it.
    """
    real_path = os.path.realpath(base)
    fields: list[object] = [_FORMAT, real_path, *stamp(Path(real_path))]
    fields += [[hashlib.sha256(path.read_bytes()).hexdigest(), scale] for path, scale in adapters]
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()


def _path(folder: Path, key: str) -> Path:
    return folder / f"{key[:32]}.gguf"


def _trim(folder: Path) -> None:
    """Remove the least recently used files, and partial files of processes that were killed."""
    last_used = {}
    for path in folder.iterdir():
        with suppress(OSError):  # another process may be quicker
            file_stat = path.stat()
            if path.suffix == ".gguf" and not path.name.startswith("."):
                last_used[path] = file_stat.st_atime_ns
            elif path.name.startswith(".") and time.time() - file_stat.st_mtime > ABANDONED_AFTER:
                path.unlink()
    for path in sorted(last_used, key=lambda path: last_used[path])[:-MAX_FILES]:
        path.unlink(missing_ok=True)
