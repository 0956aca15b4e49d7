"""Whether a video file ends before its end, by what its container says of its own size."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from reellama.pipeline.video.file_signature import container_kind, ts_packet_size

_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_BROADCAST = 1  # flag of a live stream, whose header says no size
_MXF_PARTITION = bytes.fromhex("060e2b34020501010d01020101")  # a pack of any kind and state
_HEAD = 1 << 16  # bytes in which a header says what is looked for here
_OGG_PAGE = 27 + 255 + 255 * 255  # bytes at most
_OGG_ENDS = 4  # flag of the last page of a stream


def is_cut_off(path: Path) -> bool:
    """Whether a container that knows its own end has less than that.

    False also for kinds that say nothing of it (MPEG, bare streams), and while a recording goes on.
    """
    ends = _ENDS.get(container_kind(path) or "")
    if ends is None:
        return False
    length = os.path.getsize(path)
    with open(path, "rb") as file:
        return ends(file, length) > length


def _mp4(file: BinaryIO, length: int) -> int:
    """Where the last box ends."""
    position = 0
    while position < length:
        file.seek(position)
        size, _, long_size = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
        if size == 0:  # up to the end of the file
            return length
        position += max(8, long_size if size == 1 else size)
    return position


def _avi(file: BinaryIO, length: int) -> int:
    """Where the last RIFF chunk ends; a long film has several."""
    position = end = 0
    while position < length:
        file.seek(position)
        name, size = struct.unpack("<4sI", file.read(8).ljust(8, b"\0"))
        if name != b"RIFF" or size == 0:  # what was put behind, or a recording without an end
            return length
        end = position + 8 + size
        position = end + size % 2
    return end


def _asf(file: BinaryIO, length: int) -> int:
    """The size of the file, by its properties."""
    head = file.read(_HEAD)
    at = head.find(_ASF_FILE_PROPERTIES)
    if at < 0 or len(head) < at + 92:
        return length
    (size,) = struct.unpack_from("<Q", head, at + 40)
    (flags,) = struct.unpack_from("<I", head, at + 88)
    return length if flags & _ASF_BROADCAST else size


def _mxf(file: BinaryIO, length: int) -> int:
    """One byte past where the footer begins, by the first partition; 0 there: not known."""
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


def _ts(file: BinaryIO, length: int) -> int:
    """Where the last packet ends. Damage on the way makes packets begin elsewhere."""
    packet = ts_packet_size(file.read(_HEAD)) or length
    file.seek(max(0, length - 16 * packet))
    tail = file.read()
    sync = packet % 188  # a camera's packets have four bytes of time first
    starts = (
        at for at in range(min(packet, len(tail))) if set(tail[at + sync :: packet]) == {0x47}
    )
    start = next(starts, None)
    return length if start is None else length + (start - len(tail)) % packet


def _ogg(file: BinaryIO, length: int) -> int:
    """Where the last page ends, or more than that where it is no stream's last one."""
    file.seek(max(0, length - _OGG_PAGE))
    tail = file.read()
    at = tail.rfind(b"OggS")
    page = tail[at : at + 27]
    if at < 0 or len(page) < 27:
        return length + (at >= 0)
    sizes = tail[at + 27 : at + 27 + page[26]]
    missing = at + 27 + page[26] + sum(sizes) - len(tail)
    return length + max(missing, 0 if page[5] & _OGG_ENDS else 1)


# Kind of a container -> bytes up to which it goes, given the file and its length.
_ENDS: dict[str, Callable[[BinaryIO, int], int]] = {
    "MP4 or MOV": _mp4,
    "AVI": _avi,
    "WMV": _asf,
    "MXF": _mxf,
    "MPEG-TS": _ts,
    "Ogg": _ogg,
}
