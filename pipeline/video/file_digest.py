"""Digests of video files, for the keys of caches."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

# Bytes of the largest file whose content is hashed. The digest of a larger file is that of its
# path, size, dates and inode, as to read it takes longer than to encode it again.
MAX_HASHED = 256 << 20
_CHUNK_BYTES = 1 << 20


def file_digest(path: Path, file: BinaryIO) -> bytes:
    """SHA-256 of the content of an open file at `path`, or of a large file's path and inode."""
    status = os.fstat(file.fileno())
    if status.st_size > MAX_HASHED:
        # The inode and its date tell a file that was replaced with its old date (`cp -p`).
        inode = f"{status.st_dev} {status.st_ino} {status.st_ctime_ns}"
        identity = f"{path.resolve()} {status.st_size} {status.st_mtime_ns} {inode}"
        return hashlib.sha256(os.fsencode(identity)).digest()
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.digest()
