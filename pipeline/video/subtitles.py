"""Subtitles of a video: lines of text with their times, from the file or from one beside it.

    for line in read_subtitles(Path("lecture.mp4")):
        print(line.start, line.text)

`lecture.srt`, `.vtt` or `.ass` beside the video comes first, also with a language in its name
(`lecture.en.srt`); then the first text track of the container. Tracks of pictures, as of DVDs, are
not read. FFmpeg reads all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # av is imported when a file is read: what was seen of a video may be kept
    from av.container import InputContainer

# Endings of files of subtitles.
SIDECARS = (".srt", ".vtt", ".ass", ".ssa")
# Codecs whose packets are text, and how many commas stand before the words of ASS.
_TEXT_CODECS = {"srt", "subrip", "webvtt", "mov_text", "ass", "ssa", "text"}
_ASS_COMMAS = 8
# An invisible separator, which ends what `reellama timeline` and `watch` write as subtitles: that
# is what was seen, and is not taken for what is said.
WRITTEN_BY_US = "\u2063"
# A film of three hours has some 2,500 lines.
MAX_LINES, MAX_CHARACTERS = 20_000, 500  # of subtitles, and of a line
_TAGS = re.compile(r"<[^>]{0,80}>|\{[^}]{0,200}\}")
_LAST_LINE_SECONDS = 5.0  # for a line that does not say when it ends


@dataclass(frozen=True)
class Subtitle:
    """What is said from `start` to `end` seconds of a video."""

    start: float
    end: float
    text: str


def sidecars(path: Path) -> list[Path]:
    """Files of subtitles beside a video: of its very name, then with more in their name."""
    try:
        names = sorted(each.name for each in path.parent.iterdir() if each.suffix in SIDECARS)
    except OSError:
        return []
    own = [name for name in names if Path(name).stem == path.stem or name[:-4] == path.name]
    more = [name for name in names if name.startswith(f"{path.stem}.") and name not in own]
    return [path.with_name(name) for name in [*own, *more]]


def read_subtitles(path: Path, origin: float = 0.0, *, inside: bool = True) -> tuple[Subtitle, ...]:
    """The subtitles of a video by their start; () where it has none that can be read.

    origin: seconds to add to the container's times, so that its first frame is at 0.
    inside: whether to look into the container.
    """
    for beside in sidecars(path):
        if found := _read(beside, 0.0):
            return found
    return _read(path, origin) if inside else ()


def are_written_by_us(path: Path) -> bool:
    """Whether `timeline` or `watch` wrote these subtitles; False for what cannot be read."""
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
    """The words of a packet on one line, without what says how they look."""
    if codec == "mov_text":  # its length stands before the text, and styles after it
        data = data[2 : 2 + int.from_bytes(data[:2], "big")]
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")  # what old files of the west are written in
    if codec in ("ass", "ssa"):
        text = text.split(",", _ASS_COMMAS)[-1].replace(r"\N", " ").replace(r"\n", " ")
    return " ".join(_TAGS.sub("", text).split())
