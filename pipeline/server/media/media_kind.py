"""Detects pictures and videos by the first bytes of a file."""

from __future__ import annotations

import re

from reellama.pipeline.server.media.media_items import (
    Content,
    MediaError,
    MediaKind,
    StoredContent,
)

# Regular expressions of first bytes, and what they identify.
_SIGNATURES: tuple[tuple[bytes, MediaKind], ...] = (
    (rb"\x89PNG\r\n\x1a\n", "picture"),
    (rb"\xff\xd8\xff", "picture"),
    (rb"BM.{4}\0\0\0\0", "picture"),
    (rb".{4}(ftyp|moov|mdat|wide|free|skip)", "video"),
    (rb"\x1a\x45\xdf\xa3", "video"),  # Matroska, WebM
    (rb"RIFF.{4}AVI ", "video"),
    (rb"FLV\x01", "video"),
    (rb"OggS\0", "video"),
    (rb"\x47.{187}\x47", "video"),  # MPEG-TS
    (rb".{4}\x47.{191}\x47", "video"),  # M2TS of cameras: a timestamp before each packet
)

# Bytes by which the kind of a file is detected: an animated GIF is known by its second frame.
KIND_BYTES = 64 << 20


def sniff_kind(data: bytes) -> MediaKind:
    """Whether `data` is a picture or a video; an animation is a video.

    Raises MediaError for everything else, also for playlists, which would make FFmpeg open other
    files of this machine.
    """
    head = bytes(data[:256])
    if head[:6] in (b"GIF87a", b"GIF89a"):
        # Each frame of an animation has a graphic control extension before it.
        return "video" if data.count(b"\x21\xf9\x04") > 1 else "picture"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return (
            "video" if head[12:16] == b"VP8X" and head[20:21] > b"" and head[20] & 2 else "picture"
        )
    for signature, kind in _SIGNATURES:
        if re.match(signature, head, re.DOTALL):
            return kind
    if not data:
        raise MediaError("the picture or video has 0 bytes; send the file's content")
    raise MediaError(
        "not a picture or video: send PNG, JPEG, GIF, WebP, BMP, MP4, MOV, MKV, WebM, AVI, "
        "MPEG-TS, FLV or OGG"
    )


def content_kind(content: Content) -> MediaKind:
    """Whether a content is a picture or a video. Raises like `sniff_kind`."""
    return content.kind if isinstance(content, StoredContent) else sniff_kind(content)
