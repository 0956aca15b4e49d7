"""The process that decodes: nothing that it writes is believed, and nothing of it stays."""

from __future__ import annotations

import asyncio
import io
import json
import tempfile
from asyncio.subprocess import Process
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reellama.pipeline.server.media import decode_process
from reellama.pipeline.server.media.decode_process import MediaLimits, _unpack, decode
from reellama.pipeline.server.media.media_items import MediaError, MediaItem
from reellama.pipeline.video.read_options import VideoReadOptions

GOOD = {
    "shapes": [[2, 3], [1, 2]],
    "times": [0.0, 1.0],
    "facts": None,
    "duration": 2.0,
    "notes": [],
}
PIXELS = bytes(range(24))


def answer(*, pixels: bytes = PIXELS, **changes: object) -> bytearray:
    return bytearray(json.dumps({**GOOD, **changes}).encode() + b"\n" + pixels)


def test_frames_are_those_that_were_written() -> None:
    decoded = _unpack(answer(), 0, MediaLimits())
    assert [frame.shape for frame in decoded.frames] == [(2, 3, 3), (1, 2, 3)]
    assert b"".join(frame.tobytes() for frame in decoded.frames) == PIXELS
    assert decoded.times.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    "told",
    [
        bytearray(b""),
        bytearray(b"no end of a line"),
        bytearray(b"[" * 100_000 + b"\n"),
        answer(pixels=b""),
        answer(shapes=[[2, 3], [1, 3]]),
        answer(shapes=[[-2, 3], [1, 2]]),
        answer(shapes=[[0.5, 3], [1, 2]]),
        answer(shapes=[]),
        answer(times=[0.0]),
        answer(times=[0.0, float("nan")]),
        answer(duration=float("inf")),
        answer(facts={"width": 1e999, "height": 1, "frame_rate": 1, "has_sound": False}),
        answer(notes=None),
    ],
)
def test_other_output_of_the_child_means_a_damaged_file(told: bytearray) -> None:
    with pytest.raises(MediaError, match="damaged"):
        _unpack(told, 0, MediaLimits())


@pytest.mark.parametrize("content", [b"no picture", None])
def test_the_childs_folder_is_removed_when_it_has_ended(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    picture = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(picture, "png")
    item = MediaItem((content or picture.getvalue(),))
    read_options = VideoReadOptions(frames=1)
    read = decode(item, read_options, MediaLimits())
    if content:
        with pytest.raises(MediaError):
            asyncio.run(read)
    else:
        assert len(asyncio.run(read).frames) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_cancelled_child_ends_though_its_pipe_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    picture = io.BytesIO()
    Image.fromarray(np.zeros((900, 900, 3), np.uint8)).save(picture, "png")

    async def run() -> None:
        full = asyncio.Event()

        async def read_nothing(child: Process, _: object) -> bytearray:
            await asyncio.sleep(0)
            while not getattr(child.stdout, "_paused"):  # noqa: B009  # until asyncio reads no more
                await asyncio.sleep(0.01)
            full.set()
            await asyncio.sleep(60)
            return bytearray()

        monkeypatch.setattr(decode_process, "_read", read_nothing)
        item, read_options = (
            MediaItem((picture.getvalue(),)),
            VideoReadOptions(frames=1, max_side=900),
        )
        decoding = asyncio.create_task(decode(item, read_options, MediaLimits()))
        await asyncio.wait_for(full.wait(), 60)
        decoding.cancel()
        await asyncio.wait([decoding], timeout=20)
        assert decoding.done()

    asyncio.run(run())
    assert list(tmp_path.iterdir()) == []
