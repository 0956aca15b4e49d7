"""The child process that decodes an untrusted file.

    python -m reellama.pipeline.server.media.decode_child

Its argument is JSON: the path of a file or of a folder of pictures, their times, and the limits. It
answers on stdout with one line of JSON, {"shapes": [[height, width], ...], "times": [...], "notes":
[...], "duration": ..., "facts": {...} or null}, and the pixels of all frames, or only with
{"error": "...", "status": 400 or 413}. For `characters`, a limit of subtitles, it answers only with
{"subtitles": [[start, end, text], ...]}. It imports no torch.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import warnings
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

# Pixels of all frames of an animation, as a multiple of the pixels that one frame may have.
MAX_ANIMATION_FACTOR = 8
# FFmpeg's demuxers for the files that `sniff_kind` accepts. There is none for playlists, which
# would open further files and URLs.
FORMATS = "mov,matroska,webm,avi,flv,ogg,mpegts,gif,webp_pipe,png_pipe,jpeg_pipe,bmp_pipe,image2"

NICENESS = 3  # answers that are being generated come before decoding

OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS}


class MediaTooLarge(Exception):
    """A file with too many pixels or seconds; the message is one line for people."""


def main() -> None:
    """Answer the request in the argument."""
    request = json.loads(sys.argv[1])
    limit(request["seconds"], request["memory"])
    # What a library prints must not get between the frames.
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        header, frames = (
            decode(request) if request["characters"] is None else read_subtitles(request)
        )
    except MemoryError:
        size = request["memory"] / (1 << 30)
        header, frames = refusal(f"decoding needs more than {size:.1f} GiB of memory", 413), []
    with answer:
        answer.write(json.dumps(header).encode() + b"\n")
        for frame in frames:
            answer.write(frame.tobytes())


def limit(seconds: int, memory: int) -> None:
    """Limit this process's time and memory, and forbid it to write files.

    The alarm ends it even if the server that started it is gone.
    """
    signal.alarm(seconds)
    os.nice(NICENESS)
    limits = (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CPU, 4 * seconds),  # FFmpeg decodes on several cores
        (resource.RLIMIT_AS, memory),
    )
    for what, value in limits:
        with suppress(ValueError, OSError):  # macOS has no limit of the address space
            resource.setrlimit(what, (value, value))


def decode(request: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """The header of the answer, and the frames, uint8 `[height, width, 3]`."""
    from reellama.pipeline.video import container
    from reellama.pipeline.video.clip import read_frames
    from reellama.pipeline.video.images import at_times, open_image_folder
    from reellama.pipeline.video.read_options import VideoReadOptions
    from reellama.pipeline.video.source import VideoError

    path = Path(request["path"])
    container.OPEN_OPTIONS.update(OPEN_OPTIONS)
    try:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            check(file, request["max_pixels"], request["max_seconds"])
        read_options = VideoReadOptions(**request["read_options"])
        if request["times"] is None:
            clip = read_frames(path, read_options)
        else:
            with at_times(open_image_folder(path), request["times"]) as pictures:
                clip = read_frames(pictures, read_options)
        check_seconds(clip.duration, request["max_seconds"])
    except MediaTooLarge as error:
        return refusal(str(error), 413), []
    except VideoError as error:
        return refusal(without_path(str(error), path), 400), []
    shapes = [frame.shape[:2] for frame in clip.frames]
    header = {
        "shapes": shapes,
        "times": clip.times.tolist(),
        "notes": clip.notes,
        "duration": clip.duration,
        "facts": asdict(clip.facts) if clip.facts else None,
    }
    return header, list(clip.frames)


def read_subtitles(request: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """The header of an answer with the subtitles in the file, of at most `characters`, and no
    frames. A file that cannot be read has no subtitles."""
    from reellama.pipeline.chat.subtitle_answers import between
    from reellama.pipeline.video import container
    from reellama.pipeline.video.clip import open_video
    from reellama.pipeline.video.read_options import VideoReadOptions
    from reellama.pipeline.video.source import VideoError

    container.OPEN_OPTIONS.update(OPEN_OPTIONS)
    lines, characters_left = [], request["characters"]
    with suppress(VideoError), open_video(request["path"]) as source:
        for line in between(source.subtitles(), VideoReadOptions(**request["read_options"])):
            characters_left -= len(line.text)
            if characters_left < 0:
                break
            lines.append([line.start, line.end, line.text])
    return {"subtitles": lines}, []


def check(path: Path, max_pixels: int, max_seconds: float) -> None:
    """Raise MediaTooLarge for a file that is too large by its header, before pixels are decoded."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # max_pixels is the limit
    n_frames = 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=("PNG", "JPEG", "GIF", "WEBP", "BMP")) as image:
                width, height = image.size
                n_frames = getattr(
                    image, "n_frames", 1
                )  # all of them are decoded, each over the one before
    except (OSError, ValueError, SyntaxError):  # a video, or a file that read_frames will refuse
        width, height = check_video(path, max_seconds)
    if width * height > max_pixels:
        raise MediaTooLarge(
            f"frames of {width}x{height} pixels: at most {max_pixels / 1e6:.1f} million are taken"
        )
    if width * height * n_frames > MAX_ANIMATION_FACTOR * max_pixels:
        raise MediaTooLarge(
            f"an animation of {n_frames} frames of {width}x{height} pixels: at most "
            f"{MAX_ANIMATION_FACTOR * max_pixels / 1e6:.0f} million are taken in all"
        )


def check_video(path: Path, max_seconds: float) -> tuple[int, int]:
    """Width and height of a video by its header; 0, 0 if that cannot be read."""
    import av

    try:
        with av.open(f"file:{path}", options=OPEN_OPTIONS) as container:
            check_seconds((container.duration or 0) / av.time_base, max_seconds)
            contexts = [stream.codec_context for stream in container.streams.video]
            sizes = [(c.width, c.height) for c in contexts if c is not None]
    except (av.error.FFmpegError, ValueError):
        return 0, 0
    return max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))


def check_seconds(seconds: float, max_seconds: float) -> None:
    """Raise MediaTooLarge for a video that is too long."""
    if seconds > max_seconds:
        raise MediaTooLarge(f"a video of {seconds:.0f} s: at most {max_seconds:.0f} s are taken")


def refusal(message: str, status: int) -> dict[str, Any]:
    """The header of an answer without frames."""
    return {"error": message, "status": status}


def without_path(message: str, path: Path) -> str:
    """An error message without the file's temporary name, which means nothing to the client."""
    prefix, _, rest = message.partition(": ")
    return f"the video: {rest}" if prefix.startswith(str(path)) else message


if __name__ == "__main__":
    main()
