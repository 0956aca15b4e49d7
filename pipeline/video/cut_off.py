"""Detect video files that are cut off, and files with a second video behind the first.

Both are detected by the sizes and markers in the container.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from reellama.pipeline.video.file_signature import container_kind, ts_packet_size

_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_BROADCAST = 1  # flag of a live stream, whose header has no size
_MXF_PARTITION = bytes.fromhex("060e2b34020501010d01020101")  # a pack of any kind and state
_HEAD = 1 << 16  # bytes at the beginning of a file that are searched
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_FLV_HEADER = re.compile(rb"FLV\x01[\x01\x04\x05]\0\0\0\x09")
_FLV_HEADER_BYTES = 9
_PIECE_BYTES = 1 << 20  # that are read and searched at a time
_OGG_PAGE = 27 + 255 + 255 * 255  # bytes of the largest page
_OGG_LAST_PAGE = 4  # flag of the last page of a stream


def is_cut_off(path: Path) -> bool:
    """Whether a file is shorter than its container states.

    False for containers that do not state their size (MPEG, raw streams), and for a recording that
    is still written.
    """
    find_end = _END_FINDERS.get(container_kind(path) or "")
    if find_end is None:
        return False
    length = os.path.getsize(path)
    with open(path, "rb") as file:
        return find_end(file, length) > length


def film_follows(path: Path) -> bool:
    """Whether another film follows the first in a file, which FFmpeg does not read.

    That happens if files were concatenated, which only MPEG, AVI and Ogg support.
    """
    has_second = _SECOND_FILM_FINDERS.get(container_kind(path) or "")
    if has_second is None:
        return False
    with open(path, "rb") as file:
        return has_second(file, os.path.getsize(path))


def _has_second_mp4(file: BinaryIO, length: int) -> bool:
    """Whether there is a second file type box."""
    return any(position and name == b"ftyp" for position, name, _ in _boxes(file, length))


def _has_second_asf(file: BinaryIO, length: int) -> bool:
    """Whether a header follows the end of the first film."""
    end = _asf_end(file, length)
    if not 0 < end < length:
        return False
    file.seek(0)
    header = file.read(16)
    file.seek(end)
    return file.read(16) == header


def _has_second_matroska(file: BinaryIO, length: int) -> bool:
    """Whether there is a second EBML header.

    A segment of unknown size, as of a live stream, extends to the end of the file.
    """
    position = 0
    while position < length:
        file.seek(position)
        head = file.read(12)
        if position and head.startswith(_EBML):
            return True
        size = _vint(head[4:])
        if not head.startswith((_EBML, _SEGMENT)) or size is None:
            return False
        position += 4 + size
    return False


def _vint(data: bytes) -> int | None:
    """The bytes of an EBML size field plus the bytes that it counts; None for "unknown"."""
    n = 9 - data[0].bit_length() if data and data[0] else 9
    if n > min(8, len(data)):
        return None
    value = int.from_bytes(data[:n], "big") & ((1 << 7 * n) - 1)
    return None if value == (1 << 7 * n) - 1 else n + value


def _has_second_flv(file: BinaryIO, length: int) -> bool:
    """Whether there is a second header. Read piece by piece: the film may exceed the memory."""
    file.seek(_FLV_HEADER_BYTES)
    piece = b""
    while chunk := file.read(_PIECE_BYTES):
        piece = piece[-(_FLV_HEADER_BYTES - 1) :] + chunk
        if _FLV_HEADER.search(piece):
            return True
    return False


def _mp4_end(file: BinaryIO, length: int) -> int:
    """Offset of the end of the last box."""
    return max((end for _, _, end in _boxes(file, length)), default=length)


def _boxes(file: BinaryIO, length: int) -> Iterator[tuple[int, bytes, int]]:
    """Yield start, name and end of the boxes of an MP4, in bytes, up to an invalid box."""
    position = 0
    while position < length:
        file.seek(position)
        size, name, long_size = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
        size = {0: length - position, 1: long_size}.get(size, size)  # 0: up to the end of the file
        if size < 8:
            return
        yield position, name, position + size
        position += size


def _avi_end(file: BinaryIO, length: int) -> int:
    """Offset of the end of the last RIFF chunk; a long film has several."""
    position = end = 0
    while position < length:
        file.seek(position)
        name, size = struct.unpack("<4sI", file.read(8).ljust(8, b"\0"))
        if name != b"RIFF" or size == 0:  # appended data, or an unfinished recording
            return length
        end = position + 8 + size
        position = end + size % 2
    return end


def _asf_end(file: BinaryIO, length: int) -> int:
    """The size of the file, by its file properties object."""
    head = file.read(_HEAD)
    at = head.find(_ASF_FILE_PROPERTIES)
    if at < 0 or len(head) < at + 92:
        return length
    (size,) = struct.unpack_from("<Q", head, at + 40)
    (flags,) = struct.unpack_from("<I", head, at + 88)
    return length if flags & _ASF_BROADCAST else size


def _mxf_end(file: BinaryIO, length: int) -> int:
    """Offset of the footer plus one byte, by the first partition; `length` if not stated."""
    head = file.read(_HEAD)
    at = head.find(_MXF_PARTITION)
    if at < 0 or len(head) < at + 17:
        return length
    n_more = head[at + 16] & 0x7F if head[at + 16] & 0x80 else 0  # bytes of the length's own length
    value = at + 17 + n_more
    if len(head) < value + 32:
        return length
    (footer,) = struct.unpack_from(">Q", head, value + 24)
    return footer + 1 if footer else length


def _ts_end(file: BinaryIO, length: int) -> int:
    """Offset of the end of the last packet, by sync bytes at the end, as damage shifts packets."""
    packet = ts_packet_size(file.read(_HEAD)) or length
    file.seek(max(0, length - 16 * packet))
    tail = file.read()
    sync = packet % 188  # cameras write four bytes of time before each packet
    starts = (
        at for at in range(min(packet, len(tail))) if set(tail[at + sync :: packet]) == {0x47}
    )
    start = next(starts, None)
    return length if start is None else length + (start - len(tail)) % packet


def _ogg_end(file: BinaryIO, length: int) -> int:
    """Offset of the end of the last page, and one more if that page does not end a stream."""
    file.seek(max(0, length - _OGG_PAGE))
    tail = file.read()
    at = tail.rfind(b"OggS")
    page = tail[at : at + 27]
    if at < 0 or len(page) < 27:
        return length + (at >= 0)
    sizes = tail[at + 27 : at + 27 + page[26]]
    missing = at + 27 + page[26] + sum(sizes) - len(tail)
    return length + max(missing, 0 if page[5] & _OGG_LAST_PAGE else 1)


# Kind of a container -> whether a second film follows, given the file and its length.
_SECOND_FILM_FINDERS: dict[str, Callable[[BinaryIO, int], bool]] = {
    "MP4 or MOV": _has_second_mp4,
    "Matroska or WebM": _has_second_matroska,
    "WMV": _has_second_asf,
    "FLV": _has_second_flv,
}
# Kind of a container -> offset of its end, given the file and its length.
_END_FINDERS: dict[str, Callable[[BinaryIO, int], int]] = {
    "MP4 or MOV": _mp4_end,
    "AVI": _avi_end,
    "WMV": _asf_end,
    "MXF": _mxf_end,
    "MPEG-TS": _ts_end,
    "Ogg": _ogg_end,
}
