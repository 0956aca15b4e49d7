"""Pictures and videos that came as bytes: what they are, their frames, and their soft tokens.

Frames are decoded in a child process with limits, so a hostile file can only end that child.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import math
import os
import re
import signal
import sys
import tempfile
import threading
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from reellama.gguf_tools.text.prompt_parts import Prompt, Text
from reellama.models.encoded_frames import EncodedFrames, encoding_key
from reellama.pipeline.server.admission.places import CLIENT, LOCAL
from reellama.pipeline.server.media.media_items import (
    Content,
    MediaError,
    MediaItem,
    MediaKind,
    StoredContent,
    content_digest,
    content_size,
)
from reellama.pipeline.server.media.soft_token_cache import EncodedClip, SoftTokenCache
from reellama.pipeline.server.video_options import (
    DEFAULT_VIDEO_OPTIONS,
    VideoOptions,
    video_options,
)
from reellama.pipeline.video.read_options import VideoReadOptions

if TYPE_CHECKING:
    from reellama.models.open_bundle import VideoBundle

# Children that decode at the same time.
MAX_CHILDREN = 2
_ROOT = Path(__file__).parents[4]
# All that a child gets of the environment: where programs and libraries are, and no secrets.
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONPATH")
# Bytes of the line with which a child begins, at most.
_HEADER = 1 << 20


@dataclass(frozen=True)
class MediaLimits:
    """How large a picture or a video may be, and what decoding it may take.

    max_bytes: of one file; max_pixels: of one frame; max_seconds: of one video; max_clips: of one
    message; decode_seconds: on the clock; decode_memory: bytes of address space of the child.
    """

    max_bytes: int = 256 << 20
    max_pixels: int = 8192 * 8192
    max_seconds: float = 4 * 3600.0
    max_clips: int = 16
    decode_seconds: float = 60.0
    decode_memory: int = 2 << 30


class DecodedFrames(NamedTuple):
    """uint8 RGB pictures `[height, width, 3]`, and the seconds at which they appear, float64.

    notes: what a person should know of the file, such as that it breaks off.
    """

    frames: list[np.ndarray]
    times: np.ndarray
    notes: tuple[str, ...] = ()


# The first bytes of a file, and what they say.
_MAGIC: tuple[tuple[bytes, MediaKind], ...] = (
    (rb"\x89PNG\r\n\x1a\n", "picture"),
    (rb"\xff\xd8\xff", "picture"),
    (rb"BM.{4}\0\0\0\0", "picture"),
    (rb".{4}(ftyp|moov|mdat|wide|free|skip)", "video"),
    (rb"\x1a\x45\xdf\xa3", "video"),  # Matroska, WebM
    (rb"RIFF.{4}AVI ", "video"),
    (rb"FLV\x01", "video"),
    (rb"OggS\0", "video"),
    (rb"\x47.{187}\x47", "video"),  # MPEG-TS
    (rb".{4}\x47.{191}\x47", "video"),  # the same with a time before each packet, from cameras
)


def sniff(data: bytes) -> MediaKind:
    """Whether `data` is a picture or a video, by its first bytes. An animation is a video.

    Raises MediaError for everything else. That keeps out playlists, which would make FFmpeg open
    other files of this machine.
    """
    head = bytes(data[:256])
    if head[:6] in (b"GIF87a", b"GIF89a"):
        # One frame ends the file after its first block; a second has a control block before it.
        return "video" if data.count(b"\x21\xf9\x04") > 1 else "picture"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return (
            "video" if head[12:16] == b"VP8X" and head[20:21] > b"" and head[20] & 2 else "picture"
        )
    for magic, kind in _MAGIC:
        if re.match(magic, head, re.DOTALL):
            return kind
    if not data:
        raise MediaError("the picture or video has 0 bytes; send the file's content")
    raise MediaError(
        "not a picture or video: send PNG, JPEG, GIF, WebP, BMP, MP4, MOV, MKV, WebM, AVI, "
        "MPEG-TS, FLV or OGG"
    )


def content_kind(content: Content) -> MediaKind:
    """Whether it is a picture or a video. Raises MediaError like `sniff`."""
    return content.kind if isinstance(content, StoredContent) else sniff(content)


def decode_base64(text: str) -> bytes:
    """The bytes of plain base64 or of a data URL (`data:video/mp4;base64,...`).

    Whitespace and missing padding are forgiven, and so is the alphabet of URLs. Raises MediaError.
    """
    if text[:5].lower() == "data:":
        kind, comma, text = text.partition(",")
        if not comma or not kind.lower().endswith(";base64"):
            raise MediaError("a data URL must read data:TYPE;base64,DATA")
    with suppress(binascii.Error, ValueError):
        return base64.b64decode(text, validate=True)  # as nearly everyone writes it
    packed = "".join(text.split()).translate({ord("-"): "+", ord("_"): "/"}).rstrip("=")
    try:
        return base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError("not base64: send the picture or video base64-encoded") from error


class MediaEncoder:
    """Bytes in, soft tokens out. Equal bytes are decoded once; see `SoftTokenCache`."""

    def __init__(self, limits: MediaLimits, cache: SoftTokenCache) -> None:
        self.limits = limits
        self.cache = cache
        self._children = asyncio.Semaphore(MAX_CHILDREN)
        self._tower = threading.Lock()

    async def see(
        self,
        media: Sequence[MediaItem],
        bundle: VideoBundle,
        options: VideoOptions = DEFAULT_VIDEO_OPTIONS,
        room: int | None = None,
    ) -> Prompt:
        """What stands for pictures and videos in a prompt, one clip after another.

        Every video is a clip of its own, and so is every picture, unless the bundle joins pictures
        that follow each other and of which nothing is said: then they are one clip, a second
        apart. Where there are several clips, those that have a name have it before them. `options`
        are for all of them, and each may have its own. room: cells of the context for each clip.
        Raises MediaError with status 400, 404, 413 or 503, and ReellamaError for options that this
        bundle does not take.
        """
        clips = await asyncio.to_thread(self._clips, media, bundle.joins_pictures)
        watched = [video_options(clip.options, options) for clip in clips]
        found = await asyncio.gather(
            *(
                self._encoded(clip, bundle, how.reading)
                for clip, how in zip(clips, watched, strict=True)
            )
        )
        parts: Prompt = []
        for clip, how, video in zip(clips, watched, found, strict=True):
            if clip.name and len(clips) > 1:
                parts.append(Text(f"{clip.name}:\n"))
            parts += await asyncio.to_thread(bundle.prompt_parts, video, how.pooling, room)
        return parts

    def _clips(self, media: Sequence[MediaItem], joins_pictures: bool) -> list[MediaItem]:
        for content in (content for item in media for content in item.contents):
            if (size := content_size(content)) > self.limits.max_bytes:
                raise MediaError(
                    f"a picture or video of {_mib(size)}: at most "
                    f"{_mib(self.limits.max_bytes)} are taken",
                    413,
                )
        clips: list[MediaItem] = []
        plain = groupby(media, key=_is_plain_picture)
        for is_plain, items in plain:
            if is_plain and joins_pictures:
                clips.append(MediaItem(tuple(c for item in items for c in item.contents)))
            else:
                clips += items
        if len(clips) > self.limits.max_clips:
            raise MediaError(
                f"{len(clips)} pictures and videos in one message: at most "
                f"{self.limits.max_clips} are taken",
                413,
            )
        return clips

    async def _encoded(
        self, clip: MediaItem, bundle: VideoBundle, asked: VideoReadOptions
    ) -> EncodedFrames:
        reading = asked.with_defaults(frames=bundle.frames, max_side=bundle.max_side)

        async def make() -> EncodedClip:
            async with self._children:
                seen = await decode(clip, reading, self.limits)
            return EncodedClip(await asyncio.to_thread(self._encode, seen, bundle), seen.notes)

        key = await asyncio.to_thread(_key, clip, reading, bundle)
        encoded, notes = await self.cache.get(key, make)
        _refuse_notes(notes)
        return encoded

    def _encode(self, seen: DecodedFrames, bundle: VideoBundle) -> EncodedFrames:
        with self._tower:  # one at a time: the tower takes all cores that there are
            encoded = bundle.encode(seen.frames, seen.times)
        if bundle.changed:  # its weights may be partly old, and must not be kept by its version
            raise MediaError(
                f"the bundle {bundle.name} was just changed: send the request again", 503
            )
        return encoded


def _refuse_notes(notes: Sequence[str]) -> None:
    """`ask` tells notes to its person by itself; the protocols have no place for them."""
    if notes and CLIENT.get() == LOCAL:
        raise MediaError(f"notes on the video: {'; '.join(notes)}", 409)


def _is_plain_picture(item: MediaItem) -> bool:
    kinds = {content_kind(content) for content in item.contents}
    if item.times is not None and kinds != {"picture"}:
        raise MediaError("the frames of a video with times must be pictures")
    return item.is_plain and kinds == {"picture"}


async def decode(clip: MediaItem, reading: VideoReadOptions, limits: MediaLimits) -> DecodedFrames:
    """Frames of a video, or of several pictures, read in a child process.

    Raises MediaError when the file is broken, too large, or takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="reellama-") as folder:
        path = await asyncio.to_thread(_lay_out, clip, Path(folder))
        child = await _start(path, clip.times, reading, limits)
        try:
            read = _read(child, reading)
            answer = await asyncio.wait_for(read, limits.decode_seconds)
        except asyncio.TimeoutError:
            raise _too_slow(limits) from None
        finally:
            with suppress(ProcessLookupError):
                child.kill()
            await child.wait()
    return _unpack(answer, child.returncode or 0, limits)


def _lay_out(clip: MediaItem, folder: Path) -> Path:
    """What the child reads: a video, or a folder of pictures, as links where they are files."""
    single = len(clip.contents) == 1 and clip.times is None
    for i, content in enumerate(clip.contents):
        path = folder / ("video" if single else f"{i}.png")  # names only have to look like pictures
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.symlink_to(content.path)
    return folder / "video" if single else folder


async def _start(
    path: Path,
    times: tuple[float, ...] | None,
    reading: VideoReadOptions,
    limits: MediaLimits,
) -> Process:
    request = {
        "path": str(path),
        "times": times,
        "reading": asdict(reading),
        "max_pixels": limits.max_pixels,
        "max_seconds": limits.max_seconds,
        "seconds": max(1, math.ceil(limits.decode_seconds)),
        "memory": limits.decode_memory,
    }
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    # Threads of BLAS and arenas of malloc would only fill the address space that is limited.
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "reellama.pipeline.server.media.decode_child", json.dumps(request)),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=DEVNULL,
        env=environment,
        cwd=_ROOT,
        start_new_session=True,  # Ctrl-C at the server is for the server
    )


async def _read(child: Process, reading: VideoReadOptions) -> bytes:
    """What the child writes until it ends, and no more than its frames can be."""
    assert child.stdout is not None
    most = _HEADER + reading.n_frames * 3 * (reading.max_side or 0) ** 2
    answer = bytearray()
    while part := await child.stdout.read(1 << 20):
        answer += part
        if len(answer) > most:
            raise MediaError("this file led the decoder astray: more frames than were asked for")
    await child.wait()
    return bytes(answer)


def _unpack(answer: bytes, status: int, limits: MediaLimits) -> DecodedFrames:
    """The frames in a child's answer. Nothing of it is trusted: a hostile file may have made it."""
    if status in (-signal.SIGALRM, -signal.SIGXCPU):
        raise _too_slow(limits)
    head, newline, pixels = answer.partition(b"\n")
    try:
        if not newline:
            raise ValueError("the child ended before it answered")
        header = json.loads(head)
        if "error" in header:
            raise MediaError(str(header["error"]), 413 if header["status"] == 413 else 400)
        frames = list(_split(pixels, header["shapes"]))
        times = np.array(header["times"], np.float64)
        notes = tuple(str(note) for note in header["notes"])
        if not frames or times.shape != (len(frames),) or not np.isfinite(times).all():
            raise ValueError("frames without times")
    except (ValueError, TypeError, KeyError) as error:
        raise MediaError("this file made the decoder crash; it is damaged") from error
    return DecodedFrames(frames, times, notes)


def _split(pixels: bytes, shapes: Iterable[tuple[int, int]]) -> Iterable[np.ndarray]:
    """Pictures `[height, width, 3]` that lie one after another; ValueError where they do not."""
    start = 0
    for height, width in shapes:
        end = start + height * width * 3
        if not (height > 0 and width > 0 and end <= len(pixels)):
            raise ValueError("frames that are not there")
        yield np.frombuffer(pixels[start:end], np.uint8).reshape(height, width, 3).copy()
        start = end


def _key(clip: MediaItem, reading: VideoReadOptions, bundle: VideoBundle) -> str:
    """What the soft tokens of a clip depend on, as a name for a file."""
    times = [] if clip.times is None else [repr(clip.times).encode()]
    digests = (content_digest(content) for content in clip.contents)
    return encoding_key([*digests, *times], reading, bundle.version)


def _too_slow(limits: MediaLimits) -> MediaError:
    return MediaError(
        f"decoding takes more than {limits.decode_seconds:g} s; send a shorter or smaller file", 413
    )


def _mib(n: int) -> str:
    return f"{n / (1 << 20):.1f} MiB"
