"""Content-addressed storage of uploaded files: sha256-HEX in one folder."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from reellama.gguf_tools.sizes import show_size
from reellama.pipeline.server.model_registry.model_name import ModelStoreError

ABANDONED_SECONDS = 600  # age at which an unfinished blob is abandoned
UNUSED_SECONDS = 3600  # age at which a blob that no manifest names is removed
CHUNK_BYTES = 1 << 20  # read at a time
DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")


class BlobStore:
    """The blobs of the store in `root`; their folder is created for the first of them."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "blobs"

    def path(self, digest: str) -> Path:
        """The path of a blob, whether it exists or not. Raises ModelStoreError for no digest."""
        match = DIGEST.fullmatch(digest)
        if match is None:
            raise ModelStoreError("invalid digest format; it is sha256: and 64 hexadecimal digits")
        return self.folder / f"sha256-{match[1]}"

    @contextmanager
    def receive(self, digest: str, size: int = 0) -> Iterator[IncomingBlob]:
        """Write a blob piece by piece; it is stored at the end of the block if its digest is right.

        `size` in bytes, if known, is compared with the free space. Raises ModelStoreError.
        """
        path = self.path(digest)
        make_folder(self.folder, self.root)
        if size > (free := shutil.disk_usage(self.folder).free):
            text = f"this blob has {show_size(size)}, and {self.folder} has {show_size(free)} free"
            raise ModelStoreError(f"{text}; make room", 507)
        descriptor, name = tempfile.mkstemp(dir=self.folder, prefix=".incoming-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                blob = IncomingBlob(file)
                yield blob
                file.flush()
                os.fsync(file.fileno())
            if blob.digest != f"sha256:{path.name.removeprefix('sha256-')}":
                raise ModelStoreError(f"digest mismatch, expected {digest}, got {blob.digest}")
            os.replace(name, path)
        except OSError as error:
            raise ModelStoreError(
                f"cannot save a blob in {self.folder}: {error.strerror}", 507
            ) from error
        finally:
            Path(name).unlink(missing_ok=True)

    def adopt(self, path: Path) -> str:
        """Move a file of the same file system into the store; returns its digest."""
        sha256 = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(CHUNK_BYTES):
                sha256.update(piece)
        digest = f"sha256:{sha256.hexdigest()}"
        make_folder(self.folder, self.root)
        os.replace(path, self.path(digest))
        return digest

    def remove(self, digests: Iterable[str]) -> None:
        """Remove these blobs; those that do not exist are ignored."""
        for digest in digests:
            self.path(digest).unlink(missing_ok=True)

    def remove_unnamed(self, named: Collection[str]) -> None:
        """Remove blobs that are not `named`, but for young ones, whose manifest may be coming."""
        used = {self.path(digest) for digest in named}
        for path in self.folder.glob("sha256-*"):
            with suppress(OSError):
                if path not in used and time.time() - path.stat().st_mtime > UNUSED_SECONDS:
                    path.unlink()


class IncomingBlob:
    """A blob that is being uploaded."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()

    def write(self, piece: bytes) -> None:
        """Add a piece."""
        self._sha256.update(piece)
        self._file.write(piece)

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes received so far."""
        return f"sha256:{self._sha256.hexdigest()}"


def remove_abandoned(paths: Iterable[Path]) -> None:
    """Remove unfinished files and folders of a killed server.

    Young ones may still be written: not every file system tells whether another server runs.
    """
    for path in paths:
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def make_folder(folder: Path, root: Path) -> None:
    """Create a folder of the store in `root`. Raises ModelStoreError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelStoreError(f"cannot keep models in {root}: {error.strerror}", 500) from error
