"""Recognize files by their suffixes and first bytes, without FFmpeg."""

from __future__ import annotations

from pathlib import Path

# Suffixes of videos in a folder of all kinds of files.
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
# Kinds of containers whose first bytes differ from those of all pictures. (MPEG-TS begins with a G,
# as GIF does.)
VIDEOS_ONLY = frozenset(["MP4 or MOV", "Matroska or WebM"])
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"wide")  # of MP4, behind four bytes of size
# Bytes of a packet of MPEG-TS -> offset of its sync byte: cameras write four bytes of time first.
_TS_PACKETS = {188: 0, 192: 4}
_TS_SYNC = 0x47
_MAGIC = {
    b"FLV\x01": "FLV",
    b"OggS": "Ogg",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "WMV",
    b"\x06\x0e\x2b\x34": "MXF",
    b"\0\0\x01\xba": "MPEG",
}

# First bytes of files that are no videos, whatever their names -> what they are, and what to do.
_NO_VIDEO = {
    b"<!doctype html": "a web page; save the video itself",
    b"<html": "a web page; save the video itself",
    b"#extm3u": "a playlist; give the video itself",
    b"ffconcat": "a playlist; give the video itself",
    b"version https://git-lfs": "a pointer of Git LFS; git lfs pull brings the file",
    b"pk\3\4": "a ZIP archive; unpack it first",
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"rar!": "a RAR archive; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"%pdf": "a PDF; save its pages as PNG",
    b"<svg": "a drawing (SVG); save it as PNG",
    b"<?xml": "XML; save a drawing as PNG",
}


def other_kind(path: Path) -> str | None:
    """A phrase on what a file without a video is, and what to do with it; None if unknown."""
    try:
        with open(path, "rb") as file:
            head = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    except OSError:
        return None
    return next((phrase for magic, phrase in _NO_VIDEO.items() if head.startswith(magic)), None)


def container_kind(path: Path) -> str | None:
    """The kind of video container by the first bytes, such as "MP4 or MOV", or None."""
    try:
        with open(path, "rb") as file:
            head = file.read(256)
    except OSError:
        return None
    if head[4:8] in _BOXES:
        return "MP4 or MOV"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "Matroska or WebM"
    if head.startswith(b"RIFF") and b"AVI ".startswith(head[8:12]):
        return "AVI"
    if ts_packet_size(head):
        return "MPEG-TS"
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)


def ts_packet_size(head: bytes) -> int | None:
    """Bytes of a packet of MPEG-TS in a file that begins with `head`; None for another file."""
    for size, offset in _TS_PACKETS.items():
        if set(head[offset : offset + size + 1 : size]) == {_TS_SYNC} and len(head) > offset + size:
            return size
    return None
