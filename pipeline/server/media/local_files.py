"""Pictures and videos in allowed folders of this machine, which are used without a copy."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path

from reellama.gguf_tools.user_paths import expand_user
from reellama.pipeline.server.media.fetch import reason_of
from reellama.pipeline.server.media.media_items import MediaError, StoredContent, file_state
from reellama.pipeline.server.media.media_kind import KIND_BYTES, sniff_kind
from reellama.pipeline.video.file_digest import file_digest


def local_file(path: str | Path, allow_dirs: Collection[Path]) -> StoredContent:
    """A picture or video whose real path, with links resolved, is in one of the allowed folders.

    It may have any size. Raises MediaError: 403 for any other path, whether it exists or not, and
    400 for a file that is no picture or video.
    """
    try:
        real = expand_user(path).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise MediaError("not a path") from error
    if not any(real.is_relative_to(expand_user(folder).resolve()) for folder in allow_dirs):
        raise MediaError(
            "this path is not in a folder that the server may read; send the file itself, or start "
            "the server with --allow-dir FOLDER",
            403,
        )
    try:
        # Do not wait for a pipe, nor follow a link that was created since the path was resolved.
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
