"""A cache of encoded clips by content, in memory and on disk."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from reellama.models.array_cache import DISK_BYTES, ArrayCache
from reellama.models.encoded_frames import EncodedFrames
from reellama.pipeline.chat.clip_facts import FACTS, ClipFacts

Lookup = Literal["memory", "disk", "miss"]


class EncodedClip(NamedTuple):
    """A clip as a bundle has encoded it, and facts of its file."""

    encoded: EncodedFrames
    clip_facts: ClipFacts = ClipFacts()


Encode = Callable[[], Awaitable[EncodedClip]]


@dataclass
class _PendingClip:
    """A clip that is being read from disk or encoded, and how many requests wait for it."""

    task: asyncio.Task[EncodedClip]
    n_waiting: int = 0


class SoftTokenCache:
    """An LRU cache of encoded clips.

    folder: keeps clips between runs, as `.npz` files; None keeps them in memory only.
    memory, disk: bytes, at most.
    on_lookup: called with the result of each lookup: "memory", "disk" or "miss".
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        memory: int = 256 << 20,
        disk: int = DISK_BYTES,
        on_lookup: Callable[[Lookup], None] = lambda result: None,
    ) -> None:
        self.memory = memory
        self._disk = None if folder is None else ArrayCache(folder, disk)
        self.on_lookup = on_lookup
        self._clips: OrderedDict[str, EncodedClip] = OrderedDict()
        self._pending: dict[str, _PendingClip] = {}
        self._ending: set[asyncio.Task[EncodedClip]] = (
            set()
        )  # keeps cancelled tasks alive: references of the event loop are weak

    @property
    def memory_used(self) -> int:
        """Bytes of the clips in memory."""
        return sum(clip.encoded.nbytes for clip in self._clips.values())

    async def get(self, key: str, encode: Encode) -> EncodedClip:
        """The clip of `key`, read-only; `encode` encodes it on a miss.

        Requests for a clip that is being encoded wait for the same result or error. When all of
        them are cancelled, so is the encoding.
        """
        if key in self._clips:
            self._clips.move_to_end(key)
            self.on_lookup("memory")
            return self._clips[key]
        pending = self._pending.get(key)
        if pending is None:
            task = asyncio.create_task(self._read_or_encode(key, encode))
            pending = self._pending[key] = _PendingClip(task)
        pending.n_waiting += 1
        try:
            return await asyncio.shield(pending.task)
        finally:
            pending.n_waiting -= 1
            if not pending.n_waiting:
                del self._pending[key]
                self._ending.add(pending.task)
                pending.task.add_done_callback(self._ending.discard)
                pending.task.cancel()

    async def _read_or_encode(self, key: str, encode: Encode) -> EncodedClip:
        clip = await asyncio.to_thread(self._read, key)
        self.on_lookup("miss" if clip is None else "disk")
        if clip is None:
            encoded, clip_facts = await encode()
            encoded = encoded._replace(array=np.ascontiguousarray(encoded.array))
            clip = EncodedClip(encoded, clip_facts)
            await asyncio.to_thread(self._write, key, clip)
        for part in clip.encoded:
            part.flags.writeable = False
        if clip.encoded.nbytes <= self.memory:
            self._clips[key] = clip
        while self.memory_used > self.memory:
            self._clips.popitem(last=False)
        return clip

    def _read(self, key: str) -> EncodedClip | None:
        """Read a clip from disk, None if it is not there."""
        if self._disk is None or (arrays := self._disk.read(key)) is None:
            return None
        try:
            clip_facts = ClipFacts.from_array(arrays.pop(FACTS))
            encoded = EncodedFrames(**arrays)
            array, *others = [part.dtype for part in encoded]
            if array not in (np.float16, np.float32) or others != [np.float64, np.int64, np.int64]:
                raise TypeError((array, others))
        except (KeyError, TypeError, ValueError):
            self._disk.remove(key)  # not an encoded video
            return None
        return EncodedClip(encoded, clip_facts)

    def _write(self, key: str, clip: EncodedClip) -> None:
        """Write a clip to disk."""
        if self._disk is not None:
            facts = {FACTS: clip.clip_facts.to_array()}
            self._disk.write(key, **clip.encoded._asdict(), **facts)
