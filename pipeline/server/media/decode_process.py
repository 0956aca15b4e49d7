"""Decodes untrusted files in a child process, see `decode_child`.

A file can make that child crash or run out of its limits, and the child's answer is not trusted.
It is no sandbox: code that a file ran through a hole in FFmpeg would run as the server's user.
"""

from __future__ import annotations

import asyncio
import json
import math
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reellama.gguf_tools.temporary_folders import temporary_folder
from reellama.pipeline.chat.clip_facts import ClipFacts
from reellama.pipeline.server.media.media_items import MediaError, MediaItem, StoredContent
from reellama.pipeline.server.sandbox.child_environment import ROOT, child_environment
from reellama.pipeline.video.read_options import VideoReadOptions
from reellama.pipeline.video.source import FileFacts
from reellama.pipeline.video.subtitles import Subtitle

_MAX_HEADER_BYTES = 1 << 20  # of the line with which a child's answer begins
MAX_SUBTITLE_CHARACTERS = 100_000  # of a video; a film of three hours has fewer


@dataclass(frozen=True)
class MediaLimits:
    """Limits of pictures and videos, and of their decoding.

    max_bytes: of one that is sent in a request; max_pixels: of one frame; max_seconds: of one
    video; max_clips: of one message; decode_seconds: of wall-clock time; decode_memory: bytes of
    the child's address space.
    """

    max_bytes: int = 256 << 20
    max_pixels: int = 8192 * 8192
    max_seconds: float = 4 * 3600.0
    max_clips: int = 16
    decode_seconds: float = 60.0
    decode_memory: int = 2 << 30


class DecodedFrames(NamedTuple):
    """uint8 RGB pictures `[height, width, 3]`, and the seconds at which they appear, float64.

    clip_facts: facts of the file, without a footage caveat.
    """

    frames: list[np.ndarray]
    times: np.ndarray
    clip_facts: ClipFacts = ClipFacts()


async def decode(
    clip: MediaItem, read_options: VideoReadOptions, limits: MediaLimits
) -> DecodedFrames:
    """Decode the frames of a video, or several pictures, in a child process.

    Raises MediaError for a file that is broken, too large, or takes too long.
    """
    answer, status = await _ask_child(clip, read_options, limits)
    return _unpack(answer, status, limits)


async def read_subtitles(
    clip: MediaItem, read_options: VideoReadOptions, limits: MediaLimits
) -> tuple[Subtitle, ...]:
    """Read the subtitles in a video's file, in a child process."""
    answer, _ = await _ask_child(clip, read_options, limits, MAX_SUBTITLE_CHARACTERS)
    with suppress(ValueError, TypeError, KeyError):
        lines = json.loads(answer)["subtitles"]
        return tuple(Subtitle(float(start), float(end), str(text)) for start, end, text in lines)
    return ()


async def _ask_child(
    clip: MediaItem,
    read_options: VideoReadOptions,
    limits: MediaLimits,
    characters: int | None = None,
) -> tuple[bytearray, int]:
    """The output of a child process, and its exit status."""
    temporary = ExitStack()
    writing = asyncio.ensure_future(asyncio.to_thread(_write_files, clip, temporary))
    try:
        path = await asyncio.shield(writing)
        child = await _start(path, clip.times, read_options, limits, characters)
        try:
            reading = _read(child, read_options)
            answer = await asyncio.wait_for(reading, limits.decode_seconds)
        except asyncio.TimeoutError:
            raise _too_slow(limits) from None
        finally:
            with suppress(ProcessLookupError):
                child.kill()
            # Not `wait`, which may wait for ever: asyncio stops reading from a full pipe, and then
            # does not notice that the other end was closed.
            await child.communicate()
    finally:
        await asyncio.wait([writing])  # the thread goes on if the request is cancelled
        # In a thread, because a large file takes a while to remove.
        await asyncio.to_thread(temporary.close)
    # The result would be cached under the digest of the old content. The path may also have become
    # a link to another file.
    contents = (content for content in clip.contents if isinstance(content, StoredContent))
    if any(content.has_changed for content in contents):
        raise MediaError("the file has changed while it was read: send the request again", 503)
    return answer, child.returncode or 0


def _write_files(clip: MediaItem, temporary: ExitStack) -> Path:
    """Write or link a clip's files into a folder; returns the path that the child reads.

    The folder is removed when `temporary` is closed.
    """
    folder = temporary.enter_context(temporary_folder())
    single = len(clip.contents) == 1 and clip.times is None
    for i, content in enumerate(clip.contents):
        path = folder / ("video" if single else f"{i}.png")  # any name with a picture's suffix
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.symlink_to(content.path)
    return folder / "video" if single else folder


async def _start(
    path: Path,
    times: tuple[float, ...] | None,
    read_options: VideoReadOptions,
    limits: MediaLimits,
    characters: int | None,
) -> Process:
    request = {
        "path": str(path),
        "times": times,
        "read_options": asdict(read_options),
        "characters": characters,
        "max_pixels": limits.max_pixels,
        "max_seconds": limits.max_seconds,
        "seconds": max(1, math.ceil(limits.decode_seconds)),
        "memory": limits.decode_memory,
    }
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "reellama.pipeline.server.media.decode_child", json.dumps(request)),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=DEVNULL,
        env=child_environment(),
        cwd=ROOT,
        start_new_session=True,  # out of reach of Ctrl-C
    )


async def _read(child: Process, read_options: VideoReadOptions) -> bytearray:
    """Read the child's output until it ends, with a limit by the number and size of frames."""
    assert child.stdout is not None
    pixels = read_options.n_frames * (read_options.max_side or 0) ** 2
    max_bytes = _MAX_HEADER_BYTES + 3 * max(pixels, (read_options.still_side or 0) ** 2)
    answer = bytearray()
    while part := await child.stdout.read(1 << 20):
        answer += part
        if len(answer) > max_bytes:
            raise MediaError("this file led the decoder astray: more frames than were asked for")
    await child.wait()
    return answer


def _unpack(answer: bytearray, status: int, limits: MediaLimits) -> DecodedFrames:
    """The frames of a child's answer, each part of which is checked: the file may be hostile."""
    if status in (-signal.SIGALRM, -signal.SIGXCPU):
        raise _too_slow(limits)
    try:
        end = answer.index(b"\n")
        header = json.loads(answer[:end])
        if "error" in header:
            raise MediaError(str(header["error"]), 413 if header["status"] == 413 else 400)
        frames = list(_split(np.frombuffer(answer, np.uint8)[end + 1 :], header["shapes"]))
        times = np.array(header["times"], np.float64)
        clip_facts = _clip_facts(header)
        if not frames or times.shape != (len(frames),) or not np.isfinite(times).all():
            raise ValueError("frames without times")
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise MediaError("this file made the decoder crash; it is damaged") from error
    return DecodedFrames(frames, times, clip_facts)


def _clip_facts(header: dict[str, Any]) -> ClipFacts:
    """The facts in the header of an answer. Raises KeyError, TypeError or ValueError."""
    fields = header["facts"]
    facts = fields and FileFacts(
        int(fields["width"]),
        int(fields["height"]),
        float(fields["frame_rate"]),
        bool(fields["has_sound"]),
    )
    duration = float(header["duration"])
    if not math.isfinite(duration):
        raise ValueError(duration)
    return ClipFacts(duration, tuple(map(str, header["notes"])), facts)


def _split(pixels: np.ndarray, shapes: Iterable[tuple[int, int]]) -> Iterable[np.ndarray]:
    """Split pixels into pictures `[height, width, 3]`. Raises ValueError for too few pixels."""
    start = 0
    for height, width in shapes:
        end = start + height * width * 3
        if not (height > 0 and width > 0 and end <= len(pixels)):
            raise ValueError("frames that are not there")
        yield pixels[start:end].reshape(height, width, 3)
        start = end


def _too_slow(limits: MediaLimits) -> MediaError:
    return MediaError(
        f"decoding takes more than {limits.decode_seconds:g} s; send a shorter or smaller file", 413
    )
