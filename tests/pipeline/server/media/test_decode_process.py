"""The process that decodes: nothing that it writes is believed, and nothing of it stays."""

from __future__ import annotations

import asyncio
import io
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
def test_whatever_else_it_writes_is_a_damaged_file(told: bytearray) -> None:
    with pytest.raises(MediaError, match="damaged"):
        _unpack(told, 0, MediaLimits())


@pytest.mark.parametrize("content", [b"no picture", None])
def test_its_folder_is_gone_when_it_has_ended(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    picture = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(picture, "png")
    item = MediaItem((content or picture.getvalue(),))
    reading = VideoReadOptions(frames=1)
    read = decode(item, reading, MediaLimits())
    if content:
        with pytest.raises(MediaError):
            asyncio.run(read)
    else:
        assert len(asyncio.run(read).frames) == 1
    assert list(tmp_path.iterdir()) == []
