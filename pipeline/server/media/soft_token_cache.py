"""Soft tokens by what they were made of, in memory and on disk, each made once."""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from reellama.gguf_tools.atomic_write import replacing
from reellama.gguf_tools.errors import ReellamaError

Lookup = Literal["memory", "disk", "miss"]
Make = Callable[[], Awaitable[np.ndarray]]


@dataclass
class _Flight:
    """An array that is being read or made, and how many wait for it."""

    task: asyncio.Task[np.ndarray]
    waiting: int = 0


class SoftTokenCache:
    """float32 arrays `[tokens, n_embd]` by key; the least recently used go first.

    folder: where they stay between runs, as `.npy` files; None keeps them in memory only.
    memory, disk: bytes, at most.
    on_lookup: told of every lookup where it ended: "memory", "disk" or "miss".
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        memory: int = 256 << 20,
        disk: int = 1 << 30,
        on_lookup: Callable[[Lookup], None] = lambda where: None,
    ) -> None:
        self.folder = folder
        self.memory = memory
        self.disk = disk
        self.on_lookup = on_lookup
        self._arrays: OrderedDict[str, np.ndarray] = OrderedDict()
        self._flights: dict[str, _Flight] = {}

    @property
    def memory_used(self) -> int:
        """Bytes of the arrays in memory."""
        return sum(array.nbytes for array in self._arrays.values())

    async def get(self, key: str, make: Make) -> np.ndarray:
        """The array of `key`, read-only; `make` makes it where there is none yet.

        Those who ask for it meanwhile wait for the same one, or get the same error. When all of
        them have gone, making it is cancelled.
        """
        if key in self._arrays:
            self._arrays.move_to_end(key)
            self.on_lookup("memory")
            return self._arrays[key]
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.create_task(self._fill(key, make)))
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                del self._flights[key]
                flight.task.cancel()

    async def _fill(self, key: str, make: Make) -> np.ndarray:
        array = await asyncio.to_thread(self._read, key)
        self.on_lookup("miss" if array is None else "disk")
        if array is None:
            array = np.ascontiguousarray(await make(), np.float32)
            await asyncio.to_thread(self._write, key, array)
        array.flags.writeable = False
        if array.nbytes <= self.memory:
            self._arrays[key] = array
        while self.memory_used > self.memory:
            self._arrays.popitem(last=False)
        return array

    def _read(self, key: str) -> np.ndarray | None:
        """The array on disk. A file that is damaged is removed: it would stay so for ever."""
        if self.folder is None:
            return None
        path = self.folder / f"{key}.npy"
        try:
            array = np.load(path, allow_pickle=False)
            if array.dtype != np.float32 or array.ndim != 2 or not np.isfinite(array).all():
                raise ValueError("not soft tokens")
            os.utime(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError):
            with suppress(OSError):
                path.unlink()
            return None
        return np.ascontiguousarray(array)

    def _write(self, key: str, array: np.ndarray) -> None:
        """Keep an array on disk. Where that fails the answer is just as good, only not kept."""
        if self.folder is None or array.nbytes > self.disk:
            return
        with suppress(OSError, ReellamaError):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with (
                replacing(self.folder / f"{key}.npy") as temporary,
                open(temporary, "wb") as file,
            ):
                np.save(file, array, allow_pickle=False)
            self._trim(self.folder)

    def _trim(self, folder: Path) -> None:
        """Remove the files that were not asked for the longest, down to the limit."""
        files = []
        for path in folder.iterdir():
            with suppress(FileNotFoundError):  # another server trims as well
                stat = path.stat()
                files.append((stat.st_mtime_ns, stat.st_size, path))
        used = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if used <= self.disk:
                break
            path.unlink(missing_ok=True)
            used -= size
