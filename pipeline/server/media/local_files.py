"""Pictures and videos in folders of this machine: read where they lie, never copied."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path

from reellama.pipeline.server.media.fetch import reason_of
from reellama.pipeline.server.media.media_items import MediaError, StoredContent, file_state
from reellama.pipeline.server.media.media_kind import KIND_BYTES, sniff_kind
from reellama.pipeline.video.file_digest import file_digest


def local_file(path: str | Path, allow_dirs: Collection[Path]) -> StoredContent:
    """A picture or video inside one of the allowed folders; links are followed before that counts.

    It may have any size. Raises MediaError: 403 for every other path, there or not, and 400 for
    what is no picture or video.
    """
    try:
        real = Path(path).expanduser().resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise MediaError("not a path") from error
    if not any(real.is_relative_to(folder.expanduser().resolve()) for folder in allow_dirs):
        raise MediaError(
            "this path is not in a folder that the server may read; send the file itself, or start "
            "the server with --allow-dir FOLDER",
            403,
        )
    try:
        # A pipe must not make us wait, and a link put there meanwhile must not lead elsewhere.
        descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise MediaError(f"{path} is not a file")
            kind = sniff_kind(file.read(KIND_BYTES))
            digest = file_digest(real, file)
    except OSError as error:
        raise MediaError(f"cannot read {path}: {reason_of(error)}") from error
    return StoredContent(real, digest, status.st_size, kind, state=file_state(status))
