"""Read the subtitles of a video with FFmpeg, from a file beside it or from its container.

    for line in read_subtitles(Path("lecture.mp4")):
        print(line.start, line.text)

`lecture.srt`, `.vtt` or `.ass` beside the video is preferred, also with a language in its name
(`lecture.en.srt`), to the first text track of the container. Tracks of pictures, as on DVDs, are
not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # av is imported only to read a file, as videos may be cached
    from av.container import InputContainer

# Suffixes of subtitle files.
SIDECARS = (".srt", ".vtt", ".ass", ".ssa")
# Codecs whose packets are text, and the commas before the text of an ASS packet.
_TEXT_CODECS = {"srt", "subrip", "webvtt", "mov_text", "ass", "ssa", "text"}
_ASS_COMMAS = 8
# An invisible separator at the end of each subtitle that `reellama timeline` and `watch` write.
# These describe what is seen, and must not be read as speech.
WRITTEN_BY_US = "\u2063"
# Limits of lines and of characters in a line. A film of three hours has some 2,500 lines.
MAX_LINES, MAX_CHARACTERS = 20_000, 500
_TAGS = re.compile(r"<[^>]{0,80}>|\{[^}]{0,200}\}")
_LAST_LINE_SECONDS = 5.0  # duration of a line without an end


@dataclass(frozen=True)
class Subtitle:
    """A line of subtitles, from `start` to `end` seconds of a video."""

    start: float
    end: float
    text: str


def sidecars(path: Path) -> list[Path]:
    """The subtitle files beside a video: those of its name first, then those with a suffix."""
    try:
        names = sorted(file.name for file in path.parent.iterdir() if file.suffix in SIDECARS)
    except OSError:
        return []
    own = [name for name in names if Path(name).stem == path.stem or name[:-4] == path.name]
    others = [name for name in names if name.startswith(f"{path.stem}.") and name not in own]
    return [path.with_name(name) for name in [*own, *others]]


def read_subtitles(path: Path, origin: float = 0.0, *, inside: bool = True) -> tuple[Subtitle, ...]:
    """The subtitles of a video, sorted by their start; empty if none can be read.

    Args:
        origin: seconds to add to the container's times, so that its first frame is at 0.
        inside: whether to read the container too.
    """
    for sidecar in sidecars(path):
        if lines := _read(sidecar, 0.0):
            return lines
    return _read(path, origin) if inside else ()


def are_written_by_us(path: Path) -> bool:
    """Whether `timeline` or `watch` wrote a subtitle file; False if it cannot be read."""
    with suppress(OSError):
        return WRITTEN_BY_US in path.read_text(encoding="utf-8", errors="replace")
    return False


def _read(path: Path, origin: float) -> tuple[Subtitle, ...]:
    import av
    from av.error import FFmpegError

    from reellama.pipeline.video.container import METADATA, OPEN_OPTIONS

    with (
        suppress(FFmpegError, ValueError, OSError),
        av.open(f"file:{path}", options=OPEN_OPTIONS, **METADATA) as container,
    ):
        lines = sorted(_lines(container, origin), key=lambda line: line.start)
        if not any(WRITTEN_BY_US in line.text for line in lines):
            return tuple(line for line in lines if line.end > 0)
    return ()


def _lines(container: InputContainer, origin: float) -> Iterator[Subtitle]:
    """The lines of the first text track."""
    tracks = [s for s in container.streams.subtitles if s.codec_context.name in _TEXT_CODECS]
    if not tracks:
        return
    codec, tick, n = tracks[0].codec_context.name, float(tracks[0].time_base or 0), 0
    for packet in container.demux(tracks[0]):
        text = _words(bytes(packet), codec) if packet.size else ""
        if not text or packet.pts is None:
            continue
        start = packet.pts * tick + origin
        end = start + ((packet.duration or 0) * tick or _LAST_LINE_SECONDS)
        yield Subtitle(max(0.0, round(start, 3)), round(end, 3), text[:MAX_CHARACTERS])
        n += 1
        if n == MAX_LINES:
            return


def _words(data: bytes, codec: str) -> str:
    """The text of a packet on one line, without formatting."""
    if codec == "mov_text":  # two bytes of length, the text, styles
        data = data[2 : 2 + int.from_bytes(data[:2], "big")]
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")  # the encoding of old files in western languages
    if codec in ("ass", "ssa"):
        text = text.split(",", _ASS_COMMAS)[-1].replace(r"\N", " ").replace(r"\n", " ")
    return " ".join(_TAGS.sub("", text).split())
