"""An LLM with its LoRA adapters merged in, made once and kept by content.

An adapter beside a model adds two small matrix products, a scaling and a sum to the graph for each
weight that it changes, and takes a fifth to a third of the speed. Merged into weights of Q8_0 it
takes nothing, and what the model says stays the same as far as that is measured
(`python -m benchmarks.merged_adapter`): each changed weight is stored with eight bits, more than
those of the base had. The file is larger than the base, so models of some size are left alone: what
they do is bound by reading their weights.
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
KEY = "reellama.merged_from"  # in the metadata of a merged file: what it was made from
MAX_BYTES = 512 << 20  # of a merged file
MAX_FILES = 4  # the last used ones are kept
LEFT_OVER = 3600.0  # seconds after which a half-written file belongs to nobody
_FORMAT = "merged 1"

Adapters = Sequence[tuple[Path, float]]


def find_merged(base: Path, adapters: Adapters, folder: Path) -> Path | None:
    """The merged file of `base` with `adapters`, each with its scale, if there is one in `folder`.

    A file that is damaged, or of something else, is none.
    """
    if not adapters:
        return None
    try:
        key = _key(base, adapters)
        path = _place(folder, key)
        if read_gguf(path).metadata.get(KEY) != key:
            return None
        mark_used(path)
    except (OSError, ReellamaError):
        return None
    return path


def make_merged(base: Path, adapters: Adapters, folder: Path) -> Path | None:
    """The file of `find_merged`, made if missing; None without adapters, or for a large LLM.

    Processes that want the same file wait for the one that makes it. Raises ReellamaError for
    adapters that do not fit, and for a file that cannot be written.
    """
    if not adapters:
        return None
    if found := find_merged(base, adapters, folder):
        return found
    # A file that is there needs none of what makes one.
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
            if found := find_merged(base, adapters, folder):
                return found
            merge_where_changed(base, adapters, _place(folder, key), {KEY: key})
            mark_used(_place(folder, key))
            _trim(folder)
    except OSError as error:
        raise ReellamaError(f"cannot write into {folder}: {error.strerror}") from error
    return _place(folder, key)


def merged_or_beside(
    base: Path, adapters: Adapters, folder: Path | None, *, make: bool
) -> tuple[Path, list[tuple[Path, float]]]:
    """What to load for `base` with `adapters`: the merged file, and no adapters, where `folder` has
    it or `make` can make it; else both as they are."""
    if folder is not None:
        with suppress(ReellamaError):
            if merged := (make_merged if make else find_merged)(base, adapters, folder):
                return merged, []
    return base, list(adapters)


def _key(base: Path, adapters: Adapters) -> str:
    """SHA-256, in hexadecimal, of the adapters' bytes and scales, and of the base's place, size and
    date: to read all of it at every start would take longer than to load it."""
    real_path = os.path.realpath(base)
    fields: list[object] = [_FORMAT, real_path, *stamp(Path(real_path))]
    fields += [[hashlib.sha256(path.read_bytes()).hexdigest(), scale] for path, scale in adapters]
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()


def _place(folder: Path, key: str) -> Path:
    return folder / f"{key[:32]}.gguf"


def _trim(folder: Path) -> None:
    """Remove what was not used for the longest, and what was left by processes that were killed."""
    last_used = {}
    for path in folder.iterdir():
        with suppress(OSError):  # another process may be quicker
            file_stat = path.stat()
            if path.suffix == ".gguf" and not path.name.startswith("."):
                last_used[path] = file_stat.st_atime_ns
            elif path.name.startswith(".") and time.time() - file_stat.st_mtime > LEFT_OVER:
                path.unlink()
    for path in sorted(last_used, key=lambda path: last_used[path])[:-MAX_FILES]:
        path.unlink(missing_ok=True)
