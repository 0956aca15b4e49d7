"""What the names of files and their first bytes say, before or without FFmpeg."""

from __future__ import annotations

import os
import struct
from pathlib import Path

# Endings of the names of videos, where a folder holds all kinds of files.
VIDEO_SUFFIXES = frozenset(
    [
        ".3gp",
        ".avi",
        ".flv",
        ".m2ts",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".ogv",
        ".ts",
        ".webm",
        ".wmv",
    ]
)
# Endings of files of subtitles.
SIDECARS = (".srt", ".vtt", ".ass", ".ssa")
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"wide")  # of MP4, behind four bytes of size
_TS_PACKET = 188  # bytes of a packet, each of which begins with the same one
_MAGIC = {
    b"FLV\x01": "FLV",
    b"OggS": "Ogg",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "WMV",
    b"\x06\x0e\x2b\x34": "MXF",
    b"\0\0\x01\xba": "MPEG",
}


def container_kind(path: Path) -> str | None:
    """The kind of video container that `path` begins as, e.g. "MP4 or MOV", or None."""
    try:
        with open(path, "rb") as file:
            head = file.read(_TS_PACKET + 1)
    except OSError:
        return None
    if head[4:8] in _BOXES:
        return "MP4 or MOV"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "Matroska or WebM"
    if head.startswith(b"RIFF") and b"AVI ".startswith(head[8:12]):
        return "AVI"
    if head[:1] == head[_TS_PACKET:] == b"\x47":
        return "MPEG-TS"
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)


def is_cut_off(path: Path) -> bool:
    """Whether the boxes of an MP4 or MOV file claim more bytes than the file has."""
    if container_kind(path) != "MP4 or MOV":
        return False
    length, position = os.path.getsize(path), 0
    with open(path, "rb") as file:
        while position < length:
            file.seek(position)
            head = file.read(16).ljust(16, b"\0")
            size, _, long_size = struct.unpack(">I4sQ", head)
            if size == 0:  # up to the end of the file
                return False
            position += max(8, long_size if size == 1 else size)
    return position > length


def sidecars(path: Path) -> list[Path]:
    """Files of subtitles beside a video: of its very name, then with more in their name."""
    try:
        names = sorted(each.name for each in path.parent.iterdir() if each.suffix in SIDECARS)
    except OSError:
        return []
    own = [name for name in names if Path(name).stem == path.stem or name[:-4] == path.name]
    more = [name for name in names if name.startswith(f"{path.stem}.") and name not in own]
    return [path.with_name(name) for name in [*own, *more]]
