"""What the child refuses before, or instead of, decoding it."""

import asyncio
import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from reellama.pipeline.server.media import decode_child
from reellama.pipeline.server.media.decode_process import MediaLimits, decode
from reellama.pipeline.server.media.media_items import MediaError, MediaItem
from reellama.pipeline.video import container
from reellama.pipeline.video.clip import read_frames
from reellama.pipeline.video.read_options import VideoReadOptions

READING = VideoReadOptions(frames=2)


def gif(n_frames: int, side: int) -> bytes:
    """An animation whose frames all differ."""
    frames = [Image.new("RGB", (side, side), (20 * i, 99, 0)) for i in range(n_frames)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=100)
    return file.getvalue()


def test_an_animation_is_limited_by_the_pixels_of_all_its_frames() -> None:
    limits = MediaLimits(max_pixels=64 * 64)
    few = asyncio.run(
        decode(MediaItem((gif(decode_child.MAX_ANIMATION_FACTOR, 64),)), READING, limits)
    )
    assert len(few.frames) == 2
    with pytest.raises(MediaError, match="an animation of 9 frames of 64x64 pixels") as caught:
        asyncio.run(
            decode(MediaItem((gif(decode_child.MAX_ANIMATION_FACTOR + 1, 64),)), READING, limits)
        )
    assert caught.value.status == 413


def test_a_playlist_opens_no_other_file(
    tmp_path: Path, square_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "OPEN_OPTIONS", dict(container.OPEN_OPTIONS))
    (tmp_path / "square.mp4").write_bytes(square_video.read_bytes())
    playlist = tmp_path / "video"
    playlist.write_text("ffconcat version 1.0\nfile square.mp4\n")
    assert len(read_frames(playlist, READING).frames) == 2  # so FFmpeg would, if it were let
    request: dict[str, Any] = {
        "path": str(playlist),
        "times": None,
        "read_options": asdict(READING),
    }
    limits = {"max_pixels": 10**8, "max_seconds": 3600.0}
    header, frames = decode_child.decode(request | limits)
    assert header["status"] == 400 and not frames
    header, frames = decode_child.decode(request | limits | {"path": str(tmp_path / "square.mp4")})
    assert len(header["shapes"]) == len(frames) == 2
