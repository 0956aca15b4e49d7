"""Digests of video files, for the keys of caches."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

# Bytes of the largest file whose content is hashed. The digest of a larger file is that of its
# path, size and date, as to read it takes longer than to encode it again.
MAX_HASHED = 256 << 20
_CHUNK_BYTES = 1 << 20


def file_digest(path: Path, file: BinaryIO) -> bytes:
    """SHA-256 of the content of an open file at `path`, or of a large file's path, size, date."""
    status = os.fstat(file.fileno())
    if status.st_size > MAX_HASHED:
        identity = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
        return hashlib.sha256(os.fsencode(identity)).digest()
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.digest()
