"""Encoded videos by content: made once, kept within bounds, and lost without harm."""

import asyncio
import gc
from pathlib import Path

import numpy as np
import pytest

from reellama.models.encoded_frames import EncodedFrames
from reellama.pipeline.chat.clip_facts import ClipFacts
from reellama.pipeline.server.media.soft_token_cache import EncodedClip, SoftTokenCache
from reellama.pipeline.video.source import FileFacts

ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)  # 48 bytes
CLIP = EncodedFrames(ROWS, np.array([0.5, 1.5]), np.array([64, 48]))  # 80 bytes
CLIP_FACTS = ClipFacts(2.0, ("it breaks off",), FileFacts(64, 48, 25.0, True), "a photograph")


class Maker:
    """Makes a clip, and counts how often."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.calls, self.seconds = 0, seconds

    async def __call__(self) -> EncodedClip:
        self.calls += 1
        await asyncio.sleep(self.seconds)
        return EncodedClip(CLIP, CLIP_FACTS)


def is_clip(found: EncodedClip) -> bool:
    same = all(np.array_equal(a, b) for a, b in zip(found.encoded, CLIP, strict=True))
    return same and found.clip_facts == CLIP_FACTS


def test_a_clip_is_encoded_once_and_found_again_on_disk(tmp_path: Path) -> None:
    looked: list[str] = []

    async def ask(cache: SoftTokenCache, make: Maker) -> None:
        for _ in range(2):
            assert is_clip(await cache.get("a", make))

    make = Maker()
    asyncio.run(ask(SoftTokenCache(tmp_path, on_lookup=looked.append), make))
    asyncio.run(ask(SoftTokenCache(tmp_path, on_lookup=looked.append), make))
    assert make.calls == 1
    assert looked == ["miss", "memory", "disk", "memory"]


def test_simultaneous_requests_wait_for_one_encoding() -> None:
    async def ask() -> int:
        cache, make = SoftTokenCache(None), Maker(0.05)
        await asyncio.gather(*(cache.get("a", make) for _ in range(10)))
        return make.calls

    assert asyncio.run(ask()) == 1


def test_encoding_is_cancelled_when_no_request_waits_any_more() -> None:
    async def ask() -> tuple[int, bool]:
        cache, make = SoftTokenCache(None), Maker(60)
        asked = [asyncio.ensure_future(cache.get("a", make)) for _ in range(2)]
        await asyncio.sleep(0.05)
        asked[0].cancel()
        await asyncio.sleep(0.05)
        still = not asked[1].done()
        asked[1].cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        again = Maker()
        await asyncio.wait_for(cache.get("a", again), 5)
        return again.calls, still

    assert asyncio.run(ask()) == (1, True)


def test_a_cancelled_task_ends_before_it_is_garbage_collected() -> None:
    told: list[str] = []

    async def ask() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context["message"]))

        async def never_ends() -> EncodedClip:
            try:
                return await Maker(60)()
            finally:  # nothing but its task knows what it waits for
                await asyncio.get_running_loop().create_future()

        cache = SoftTokenCache(None)
        asked = asyncio.ensure_future(cache.get("a", never_ends))
        await asyncio.sleep(0.05)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await asyncio.sleep(0.05)
        gc.collect()
        assert told == []

    asyncio.run(ask())


def test_memory_and_disk_are_bounded(tmp_path: Path) -> None:
    async def ask() -> SoftTokenCache:
        cache = SoftTokenCache(tmp_path, memory=200, disk=2000)
        for key in "abcdefgh":
            await cache.get(key, Maker())
        return cache

    assert asyncio.run(ask()).memory_used <= 200
    assert 0 < sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2000


@pytest.mark.parametrize("damage", [b"", b"not an array", b"PK\x03\x04\x14\x00"])
def test_a_damaged_cache_file_is_replaced(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(damage)
    make = Maker()
    assert is_clip(asyncio.run(SoftTokenCache(tmp_path).get("a", make)))
    assert make.calls == 1
    assert is_clip(asyncio.run(SoftTokenCache(tmp_path).get("a", make)))
    assert make.calls == 1


def test_an_error_reaches_all_waiting_requests_and_is_not_cached() -> None:
    async def fail() -> EncodedClip:
        raise ValueError("no")

    async def ask() -> int:
        cache, make = SoftTokenCache(None), Maker()
        errors = await asyncio.gather(
            *(cache.get("a", fail) for _ in range(3)), return_exceptions=True
        )
        assert all(isinstance(error, ValueError) for error in errors)
        await cache.get("a", make)
        return make.calls

    assert asyncio.run(ask()) == 1


def test_a_folder_that_cannot_be_written_costs_nothing_but_the_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = SoftTokenCache(tmp_path / "file" / "folder")
    assert is_clip(asyncio.run(cache.get("a", Maker())))
