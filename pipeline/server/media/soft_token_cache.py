"""Encoded clips by their content, in memory and on disk, each made once."""

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
    """A clip as a bundle encoded it, and what is known of it beside its frames."""

    encoded: EncodedFrames
    clip_facts: ClipFacts = ClipFacts()


Make = Callable[[], Awaitable[EncodedClip]]


@dataclass
class _Flight:
    """A clip that is being read or made, and how many wait for it."""

    task: asyncio.Task[EncodedClip]
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
        self._clips: OrderedDict[str, EncodedClip] = OrderedDict()
        self._flights: dict[str, _Flight] = {}
        self._ending: set[asyncio.Task[EncodedClip]] = set()  # the event loop's references are weak

    @property
    def memory_used(self) -> int:
        """Bytes of the clips in memory."""
        return sum(clip.encoded.nbytes for clip in self._clips.values())

    async def get(self, key: str, make: Make) -> EncodedClip:
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
                self._ending.add(flight.task)
                flight.task.add_done_callback(self._ending.discard)
                flight.task.cancel()

    async def _fill(self, key: str, make: Make) -> EncodedClip:
        clip = await asyncio.to_thread(self._read, key)
        self.on_lookup("miss" if clip is None else "disk")
        if clip is None:
            (array, times, size), clip_facts = await make()
            encoded = EncodedFrames(np.ascontiguousarray(array, np.float32), times, size)
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
        """The clip on disk."""
        if self._disk is None or (arrays := self._disk.read(key)) is None:
            return None
        try:
            clip_facts = ClipFacts.from_array(arrays.pop(FACTS))
            encoded = EncodedFrames(**arrays)
            kinds = [part.dtype for part in encoded]
            if kinds != [np.float32, np.float64, np.int64]:
                raise TypeError(kinds)
        except (KeyError, TypeError, ValueError):
            self._disk.remove(key)  # not an encoded video
            return None
        return EncodedClip(encoded, clip_facts)

    def _write(self, key: str, clip: EncodedClip) -> None:
        """Keep a clip on disk."""
        if self._disk is not None:
            facts = {FACTS: clip.clip_facts.to_array()}
            self._disk.write(key, **clip.encoded._asdict(), **facts)
