"""Hostile and broken media: a reason with a 4xx, and a server that goes on."""

import asyncio
import base64
import io
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from reellama.pipeline.server.media import media_encoder
from reellama.pipeline.server.media.decode_process import MediaLimits
from reellama.pipeline.server.media.media_encoder import MediaEncoder
from reellama.pipeline.server.media.media_items import MediaError, MediaItem
from reellama.pipeline.server.media.soft_token_cache import SoftTokenCache
from reellama.pipeline.video.clip import read_frames
from reellama.pipeline.video.read_options import VideoReadOptions
from tests.helpers.live_server import serving


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("seen")


@pytest.fixture(scope="module")
def allowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("allowed")


@pytest.fixture(scope="module")
def url(cache: Path, allowed: Path) -> Iterator[str]:
    limits: dict[str, Any] = {"max_body": 8 << 20, "max_pixels": 4096 * 4096}
    limits |= {"max_video_seconds": 3600.0, "allow_dirs": (allowed,)}
    with serving(n_ctx=512, cache=cache, decode_seconds=20.0, **limits) as url:
        yield url


def ask(url: str, *media: bytes, **more: Any) -> httpx.Response:
    images = [base64.b64encode(data).decode() for data in media]
    message = {"role": "user", "content": "What happens?", "images": images}
    body = {"model": "mini", "messages": [message], "stream": False, **more}
    return httpx.post(f"{url}/api/chat", json=body, timeout=60)


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG with this size in its header, whatever its data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def test_a_video_is_watched(url: str, square_video: Path) -> None:
    reply = ask(url, square_video.read_bytes())
    assert reply.status_code == 200
    assert reply.json()["message"]["content"]


def test_a_file_of_this_machine_may_be_larger_than_a_request(
    url: str, allowed: Path, square_video: Path
) -> None:
    file = allowed / "large.mp4"
    file.write_bytes(square_video.read_bytes())
    os.truncate(file, 20 << 20)
    for media in (str(file), {"url": file.as_uri()}):
        message = {"role": "user", "content": "What happens?", "videos": [media]}
        body = {"model": "mini", "messages": [message], "stream": False}
        reply = httpx.post(f"{url}/api/chat", json=body, timeout=60)
        assert reply.status_code == 200, reply.text


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"", 400, "0 bytes"),
        (b"not a video at all", 400, "not a picture or video"),
        (b"#EXTM3U\nfile:///etc/passwd\n", 400, "not a picture or video"),
        (zlib.compress(b"\0" * 10_000_000), 400, "not a picture or video"),
        (png(100_000, 100_000), 413, "100000x100000 pixels"),
        (png(3000, 3000, zlib.compress(b"\0" * 100)), 400, "the video"),
        (b"\0\0\0\x18ftypisom" + b"\xff" * 5000, 400, "the video"),
        (b"\x1a\x45\xdf\xa3" + bytes(range(256)) * 20, 400, "the video"),
    ],
    ids=["empty", "text", "playlist", "bomb", "huge", "short", "broken-mp4", "broken-mkv"],
)
def test_a_file_that_is_no_video_is_refused_with_a_reason(
    url: str, data: bytes, status: int, reason: str
) -> None:
    reply = ask(url, data)
    assert reply.status_code == status, reply.text
    assert reason in reply.json()["error"]
    assert "/tmp" not in reply.json()["error"]


def test_a_truncated_video_is_refused_or_its_beginning_is_watched(
    url: str, square_video: Path
) -> None:
    whole = square_video.read_bytes()
    for share in (0.2, 0.5, 0.9):
        reply = ask(url, whole[: int(len(whole) * share)])
        assert reply.status_code in (200, 400), reply.text


def test_bad_base64_is_refused(url: str) -> None:
    message = {"role": "user", "content": "?", "images": ["@@@@"]}
    reply = httpx.post(f"{url}/api/chat", json={"model": "mini", "messages": [message]})
    assert reply.status_code == 400
    assert "base64" in reply.json()["error"]


def test_the_same_bytes_are_decoded_once(url: str, cache: Path, square_video: Path) -> None:
    video = square_video.read_bytes() + b"\0" * 8  # other bytes than those of other tests
    assert ask(url, video).status_code == 200
    assert ask(url, video).status_code == 200
    text = httpx.get(f"{url}/metrics").text
    assert 'reellama_videos_total{found="memory"}' in text
    assert list(cache.glob("*.npz"))


@pytest.mark.parametrize(("status", "n_reads"), [(413, 1), (503, 2)], ids=["too-slow", "changed"])
def test_subtitles_that_take_too_long_are_not_read_again(
    square_video: Path, monkeypatch: pytest.MonkeyPatch, status: int, n_reads: int
) -> None:
    reads = []

    async def read_subtitles(*arguments: Any) -> None:
        reads.append(arguments)
        raise MediaError("no subtitles", status)

    monkeypatch.setattr(media_encoder, "read_subtitles", read_subtitles)
    clip = MediaItem((square_video.read_bytes(),))

    async def ask_twice() -> None:
        encoder = MediaEncoder(MediaLimits(), SoftTokenCache(None))
        for _ in range(2):
            assert await encoder._read_subtitles(clip, VideoReadOptions()) == ()
        encoder.close()

    asyncio.run(ask_twice())
    assert len(reads) == n_reads


def test_several_pictures_are_one_clip(url: str, square_video: Path) -> None:
    pictures = []
    for frame in read_frames(square_video, frames=3).frames:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "PNG")
        pictures.append(file.getvalue())
    one, three = ask(url, pictures[0]), ask(url, *pictures)
    assert (one.status_code, three.status_code) == (200, 200)
    assert one.json()["prompt_eval_count"] == three.json()["prompt_eval_count"]
