"""Stores the pictures and videos that clients upload, by id, up to a total size.

files/ID.json    its metadata
files/ID.bin     its bytes
files/.held-*    a hard link to the bytes of a file in use, which outlives their deletion
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
import time
import uuid
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

from reellama.gguf_tools.atomic_write import write_atomically
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.sizes import show_size
from reellama.pipeline.server.media.media_items import MediaKind, StoredContent
from reellama.pipeline.server.media.media_kind import KIND_BYTES

FILE_ID = re.compile(r"file-[0-9a-f]{24}")
CHUNK_BYTES = 1 << 20  # read at a time
ABANDONED_SECONDS = 600  # age at which an unfinished file or a hard link is abandoned


class FileStoreError(ReellamaError):
    """A file that cannot be stored or does not exist; `status` is HTTP's."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class StoredFile:
    """A file that a client uploaded.

    size: bytes; created, expires: seconds since 1970, expires None for never; purpose: as given by
    the client; kind: "picture" or "video"; folder: the folder of its bytes.
    """

    id: str
    filename: str
    purpose: str
    size: int
    created: int
    expires: int | None
    sha256: str
    kind: MediaKind
    folder: Path

    @property
    def path(self) -> Path:
        """The file with the bytes."""
        return self.folder / f"{self.id}.bin"


class HeldFile:
    """A file in use: its bytes stay at `path` while this object lives, even if it is deleted.

    Raises OSError if its bytes are gone already, or cannot be linked.
    """

    def __init__(self, stored: StoredFile) -> None:
        self.stored = stored
        self.path = stored.folder / f".held-{uuid.uuid4().hex}"
        weakref.finalize(self, _remove_quietly, self.path)
        try:
            os.link(stored.path, self.path)
        except FileNotFoundError:
            raise
        except OSError:  # not every file system has hard links
            shutil.copy2(stored.path, self.path)

    @property
    def content(self) -> StoredContent:
        """The content for a `MediaItem`, which holds the file."""
        stored = self.stored
        sha256 = bytes.fromhex(stored.sha256)
        return StoredContent(self.path, sha256, stored.size, stored.kind, self)


class FileStore:
    """The files in `folder`, of `limit` bytes in all. Thread-safe.

    sniff: the kind of a file by its first bytes; raises ReellamaError for other files.
    """

    def __init__(self, folder: Path, limit: int, sniff: Callable[[bytes], MediaKind]) -> None:
        self.folder, self.limit = folder, limit
        self._sniff = sniff
        self._add_lock = threading.Lock()
        self._held: weakref.WeakValueDictionary[str, HeldFile] = weakref.WeakValueDictionary()

    def add(
        self, source: BinaryIO, filename: str, purpose: str, lifetime: int | None = None
    ) -> StoredFile:
        """Store a file for `lifetime` seconds, or until it is deleted.

        Raises FileStoreError if there is no room for it, and MediaError if it is no picture or
        video.
        """
        source.seek(0, os.SEEK_END)
        size = source.tell()
        source.seek(0)
        kind = self._sniff(source.read(KIND_BYTES))
        source.seek(0)
        with self._add_lock:
            used = self._used()
            if used + size > self.limit:
                raise FileStoreError(
                    f"no room for a file of {show_size(size)}: {show_size(used)} of "
                    f"{show_size(self.limit)} are taken; delete files that are not needed",
                    413,
                )
            return self._write(source, size, kind, filename, purpose, lifetime)

    def _write(
        self,
        source: BinaryIO,
        size: int,
        kind: MediaKind,
        filename: str,
        purpose: str,
        lifetime: int | None,
    ) -> StoredFile:
        now = int(time.time())
        expires = None if lifetime is None else now + lifetime
        id_ = f"file-{uuid.uuid4().hex[:24]}"
        sha256 = hashlib.sha256()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self.folder, prefix=".incoming-")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    while piece := source.read(CHUNK_BYTES):
                        sha256.update(piece)
                        file.write(piece)
                digest = sha256.hexdigest()
                stored = StoredFile(
                    id_, filename, purpose, size, now, expires, digest, kind, self.folder
                )
                os.replace(name, stored.path)
            finally:
                Path(name).unlink(missing_ok=True)
            fields = {key: value for key, value in asdict(stored).items() if key != "folder"}
            write_atomically(self._metadata_path(id_), json.dumps(fields))
        except OSError as error:
            raise FileStoreError(f"cannot keep this file: {error.strerror}", 507) from error
        return stored

    def get(self, id_: str) -> StoredFile:
        """The file of this id. Raises FileStoreError, status 404, if there is none."""
        stored = self._read(self._metadata_path(id_)) if FILE_ID.fullmatch(id_) else None
        if stored is None:
            raise _missing(id_)
        return stored

    def hold(self, id_: str) -> HeldFile:
        """The file of this id, protected from deletion while it is used. Raises like `get`."""
        stored = self.get(id_)
        # One HeldFile for all users: file systems limit the number of hard links.
        if (held := self._held.get(id_)) is None:
            try:
                held = self._held[id_] = HeldFile(stored)
            except FileNotFoundError:  # deleted just now
                raise _missing(id_) from None
            except OSError as error:
                raise FileStoreError(f"cannot use this file: {error.strerror}", 507) from error
        return held

    def list(self) -> list[StoredFile]:
        """All files, the newest first. Expired files are removed."""
        read = [self._read(path) for path in self.folder.glob("file-*.json")]
        files = [file for file in read if file is not None]
        return sorted(files, key=lambda file: (file.created, file.id), reverse=True)

    def delete(self, id_: str) -> None:
        """Remove a file. Raises like `get`."""
        self._remove(self.get(id_))

    def sweep(self) -> None:
        """Remove what a killed server has left, and expired files."""
        for path in (*self.folder.glob(".incoming-*"), *self.folder.glob(".held-*")):
            with suppress(OSError):
                # Not st_mtime, which a hard link shares with the file.
                if time.time() - path.stat().st_ctime > ABANDONED_SECONDS:
                    path.unlink()
        current = {file.path for file in self.list()}
        for path in self.folder.glob("file-*.bin"):
            with suppress(OSError):
                if path not in current and time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                    path.unlink()

    def _used(self) -> int:
        """Bytes of all files, and of deleted ones still in use."""
        held = [file.stored for ref in self._held.valuerefs() if (file := ref()) is not None]
        deleted = sum(file.size for file in held if not file.path.exists())
        return deleted + sum(file.size for file in self.list())

    def _metadata_path(self, id_: str) -> Path:
        return self.folder / f"{id_}.json"

    def _read(self, path: Path) -> StoredFile | None:
        """The file with this metadata; None if it does not exist or has expired."""
        try:
            file = StoredFile(**json.loads(path.read_text(encoding="utf-8")), folder=self.folder)
            # An earlier version stored names with lone surrogates, which no reply can have.
            name, purpose = whole_characters(file.filename), whole_characters(file.purpose)
            file = replace(file, filename=name, purpose=purpose)
        except (OSError, ValueError, TypeError, AttributeError):
            return None
        if file.expires is not None and file.expires <= time.time():
            self._remove(file)
            return None
        return file if file.path.is_file() else None

    def _remove(self, file: StoredFile) -> None:
        self._metadata_path(file.id).unlink(missing_ok=True)
        file.path.unlink(missing_ok=True)


def whole_characters(text: str) -> str:
    """A text with question marks for lone surrogates, which have no UTF-8.

    >>> whole_characters("\\ud800.png")
    '?.png'
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def _missing(id_: str) -> FileStoreError:
    return FileStoreError(f"there is no file {id_[:40]!r} here: send it to /v1/files", 404)


def _remove_quietly(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
