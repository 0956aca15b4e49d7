"""Write files atomically, and stamp them to detect changes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reellama.gguf_tools.errors import ReellamaError


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step: a full disk or a kill leaves the old file as it was.

    Raises ReellamaError, with the reason, when it cannot be written.
    """
    with replacing(path) as temporary:
        # File names in the text may have bytes that are not UTF-8. JSON can read their escapes.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def check_writable(path: Path) -> None:
    """Raise ReellamaError if a file cannot be written. For a check before long work."""
    folder = Path(os.path.realpath(path)).parent
    if path.exists() and not path.is_file():
        raise ReellamaError(f"cannot save {path}: it is not a file")
    if not folder.is_dir():
        raise ReellamaError(f"cannot save {path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise ReellamaError(f"cannot save {path}: {folder} cannot be written")


def check_new(path: Path, *, force: bool) -> None:
    """Raise ReellamaError if the file exists, unless `force` allows to replace it."""
    if path.exists() and not force:
        raise ReellamaError(f"{path} exists; --force replaces it")


def stamp(path: Path) -> tuple[int, int]:
    """A file's size in bytes and modification time in nanoseconds, to detect that it was rewritten.

    (0, 0) for a missing file.
    """
    try:
        stat = path.stat()
    except FileNotFoundError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def mark_used(path: Path) -> None:
    """Set a file's access time to now, for caches that remove the least recently used files.

    The modification time stays. The access time is set to the nanosecond, because the kernel's own
    timestamps are only as fine as its clock ticks, and files of one tick would have no order.
    """
    os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


@contextmanager
def replacing(path: Path, *, keep_suffix: bool = False) -> Iterator[Path]:
    """A temporary file beside `path`, which replaces it in one step if the block succeeds.

    keep_suffix: whether the temporary file has the suffix of `path`, for libraries that go by it.
    After an error `path` is unchanged; a kill leaves at most a hidden file beside it. Raises
    ReellamaError, with the reason, if the file cannot be written.
    """
    if path.exists() and not path.is_file():
        raise ReellamaError(f"cannot save {path}: it is not a file")
    target = Path(os.path.realpath(path))  # a link stays a link
    temporary = None
    try:
        mode = path.stat().st_mode if path.exists() else None
        suffix = target.suffix if keep_suffix else ""
        new = target.with_name(f".{target.name}.{os.urandom(4).hex()}{suffix}")
        # The umask bounds the permissions of a new file; what replaces one may have to be private.
        new.touch(0o666 if mode is None else 0o600, exist_ok=False)
        temporary = new
        yield temporary
        _sync(temporary)
        if mode is not None:
            os.chmod(temporary, mode)
        temporary.replace(target)
    except OSError as error:
        unchanged = "; the old file is as it was" if path.exists() else ""
        raise ReellamaError(f"cannot save {path}: {error.strerror}{unchanged}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
