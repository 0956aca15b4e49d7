"""What a tower made of clips, by their content, in memory and on disk, each made once."""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import numpy as np

from reellama.gguf_tools.atomic_write import replacing
from reellama.gguf_tools.errors import ReellamaError
from reellama.models.encoded_frames import EncodedFrames

Lookup = Literal["memory", "disk", "miss"]

Make = Callable[[], Awaitable[EncodedFrames]]


@dataclass
class _Flight:
    """A clip that is being read or made, and how many wait for it."""

    task: asyncio.Task[EncodedFrames]
    waiting: int = 0


class SoftTokenCache:
    """Encoded videos by key; the least recently used go first.

    folder: where they stay between runs, as `.npz` files; None keeps them in memory only.
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
        self._clips: OrderedDict[str, EncodedFrames] = OrderedDict()
        self._flights: dict[str, _Flight] = {}

    @property
    def memory_used(self) -> int:
        """Bytes of the clips in memory."""
        return sum(clip.nbytes for clip in self._clips.values())

    async def get(self, key: str, make: Make) -> EncodedFrames:
        """The clip of `key`, read-only; `make` makes it where there is none yet.

        Those who ask for it meanwhile wait for the same one, or get the same error. When all of
        them have gone, making it is cancelled.
        """
        if key in self._clips:
            self._clips.move_to_end(key)
            self.on_lookup("memory")
            return self._clips[key]
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

    async def _fill(self, key: str, make: Make) -> EncodedFrames:
        clip = await asyncio.to_thread(self._read, key)
        self.on_lookup("miss" if clip is None else "disk")
        if clip is None:
            array, times, size = await make()
            clip = EncodedFrames(np.ascontiguousarray(array, np.float32), times, size)
            await asyncio.to_thread(self._write, key, clip)
        for part in clip:
            part.flags.writeable = False
        if clip.nbytes <= self.memory:
            self._clips[key] = clip
        while self.memory_used > self.memory:
            self._clips.popitem(last=False)
        return clip

    def _read(self, key: str) -> EncodedFrames | None:
        """The clip on disk. A file that is damaged is removed: it would stay so for ever."""
        if self.folder is None:
            return None
        path = self.folder / f"{key}.npz"
        try:
            with np.load(path, allow_pickle=False) as file:
                video = EncodedFrames(*(file[name] for name in EncodedFrames._fields))
            if [part.dtype for part in video] != [np.float32, np.float64, np.int64]:
                raise ValueError("not an encoded video")
            if not all(np.isfinite(part).all() for part in video):
                raise ValueError("not numbers")
            os.utime(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError, KeyError, BadZipFile):
            with suppress(OSError):
                path.unlink()
            return None
        return video

    def _write(self, key: str, clip: EncodedFrames) -> None:
        """Keep a clip on disk. Where that fails the answer is just as good, only not kept."""
        if self.folder is None or clip.nbytes > self.disk:
            return
        with suppress(OSError, ReellamaError):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with (
                replacing(self.folder / f"{key}.npz") as temporary,
                open(temporary, "wb") as file,
            ):
                np.savez(file, **clip._asdict())
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
