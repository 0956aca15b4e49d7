"""A disk cache of NumPy arrays, such as the embeddings of a video's frames.

cache = ArrayCache(folder, limit=1 << 30)
cache.write(key, features=features)
cache.read(key)["features"]
"""

from __future__ import annotations

import stat
from contextlib import suppress
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from reellama.gguf_tools.atomic_write import mark_used, replacing
from reellama.gguf_tools.errors import ReellamaError

DISK_BYTES = 1 << 30  # 1 GiB
FILE_BYTES = 2048  # of a file beside its arrays, at most


class ArrayCache:
    """Named arrays in a folder, one `.npz` file for each key. Processes may share the folder.

    Args:
        folder: created by the first write.
        limit: largest size of all files together, in bytes; the least recently used are removed.
        for_scans: whether keys are used in the same order in each run, such as the scenes of a
            video. Then this object removes nothing that it used itself and stores no more than the
            limit, so that the next run finds the first keys. Otherwise it would find none, because
            each key would have been removed just before its turn.
    """

    def __init__(self, folder: Path, limit: int = DISK_BYTES, *, for_scans: bool = False) -> None:
        self.folder, self.limit, self.for_scans = folder, limit, for_scans
        self._used: dict[str, int] = {}  # sizes of files by key

    def read(self, key: str) -> dict[str, np.ndarray] | None:
        """The arrays of a key by name, or None. A damaged file is removed, so that the next write
        replaces it."""
        path = self._path(key)
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            if not all(np.isfinite(array).all() for array in arrays.values()):
                raise ValueError("not numbers")
            mark_used(path)
            self._used[key] = path.stat().st_size
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, EOFError, KeyError, BadZipFile):
            self.remove(key)
            return None
        return arrays

    def write(self, key: str, **arrays: np.ndarray) -> None:
        """Store finite arrays by name. A failure is ignored: the caller has the arrays already."""
        size = sum(array.nbytes for array in arrays.values())
        own = sum(self._used.values()) + FILE_BYTES if self.for_scans else 0
        if own + size > self.limit:
            return
        with suppress(OSError, ReellamaError):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with replacing(self._path(key)) as temporary, open(temporary, "wb") as file:
                # mypy: a name in `arrays` might be one of savez's own parameters.
                np.savez(file, **arrays)  # type: ignore[arg-type]
            mark_used(self._path(key))
            self._used[key] = self._path(key).stat().st_size
            self._trim()

    def remove(self, key: str) -> None:
        """Remove the arrays of a key."""
        with suppress(OSError):
            self._path(key).unlink()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npz"

    def _trim(self) -> None:
        """Remove the least recently used files until the others fit the limit."""
        files = []
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # another process trims as well
                info = path.stat()
                if stat.S_ISREG(info.st_mode):
                    files.append((info.st_atime_ns, info.st_size, path))
        used = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if used <= self.limit:
                break
            path.unlink(missing_ok=True)
            used -= size
