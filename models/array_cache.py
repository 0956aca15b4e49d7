"""Arrays on disk by key: what was computed once and is wanted again, as a tower's embeddings are.

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

DISK_BYTES = 1 << 30


class ArrayCache:
    """Named arrays of numbers in a folder, a `.npz` file for each key.

    folder: made when there is first something to keep. limit: bytes of all files, at most; those
    that were not asked for the longest go first. Any number of processes may share a folder.
    """

    def __init__(self, folder: Path, limit: int = DISK_BYTES) -> None:
        self.folder, self.limit = folder, limit

    def read(self, key: str) -> dict[str, np.ndarray] | None:
        """The arrays of a key, None where there are none. A file that is damaged is removed: it
        would stay so for ever."""
        path = self._path(key)
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            if not all(np.isfinite(array).all() for array in arrays.values()):
                raise ValueError("not numbers")
            mark_used(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, EOFError, KeyError, BadZipFile):
            self.remove(key)
            return None
        return arrays

    def write(self, key: str, **arrays: np.ndarray) -> None:
        """Keep arrays. Where that fails the answer is just as good, only not kept."""
        if sum(array.nbytes for array in arrays.values()) > self.limit:
            return
        with suppress(OSError, ReellamaError):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with replacing(self._path(key)) as temporary, open(temporary, "wb") as file:
                # `savez` takes the arrays by name, and has parameters of its own.
                np.savez(file, **arrays)  # type: ignore[arg-type]
            mark_used(self._path(key))
            self._trim()

    def remove(self, key: str) -> None:
        """Forget a key."""
        with suppress(OSError):
            self._path(key).unlink()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npz"

    def _trim(self) -> None:
        """Remove the files that were not asked for the longest, down to the limit."""
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
