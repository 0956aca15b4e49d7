"""What a tower made of clips, by their content, in memory and on disk, each made once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from reellama.models.array_cache import DISK_BYTES, ArrayCache
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
        disk: int = DISK_BYTES,
        on_lookup: Callable[[Lookup], None] = lambda where: None,
    ) -> None:
        self.memory = memory
        self._disk = None if folder is None else ArrayCache(folder, disk)
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
        """The clip on disk."""
        if self._disk is None or (arrays := self._disk.read(key)) is None:
            return None
        # `reellama ask` keeps what the file says of itself beside them.
        arrays = {name: arrays[name] for name in EncodedFrames._fields if name in arrays}
        kinds = {name: array.dtype for name, array in arrays.items()}
        if kinds != {"array": np.float32, "times": np.float64, "frame_size": np.int64}:
            self._disk.remove(key)  # not an encoded video
            return None
        return EncodedFrames(**arrays)

    def _write(self, key: str, clip: EncodedFrames) -> None:
        """Keep a clip on disk."""
        if self._disk is not None:
            self._disk.write(key, **clip._asdict())
