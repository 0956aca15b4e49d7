"""Write files atomically, and stamp them to detect changes."""

from __future__ import annotations

import os
import tempfile
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
        # A name of a file in it may have bytes that are not UTF-8; JSON reads what stands for them.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def check_writable(path: Path) -> None:
    """Raise ReellamaError where a file could not be written: before hours of work for it."""
    folder = Path(os.path.realpath(path)).parent
    if path.exists() and not path.is_file():
        raise ReellamaError(f"cannot save {path}: it is not a file")
    if not folder.is_dir():
        raise ReellamaError(f"cannot save {path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise ReellamaError(f"cannot save {path}: {folder} cannot be written")


def check_new(path: Path, *, force: bool) -> None:
    """Raise ReellamaError where a file is there already, unless it may be replaced."""
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
    """Note that a file was used now, as its date of access, for caches that drop what was not.

    The date of its content stays, so that what was read of it holds. To the nanosecond: the date
    that the kernel gives is as coarse as its clock's ticks, and files of one tick would go in any
    order.
    """
    os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


@contextmanager
def replacing(path: Path, *, keep_suffix: bool = False) -> Iterator[Path]:
    """A temporary file beside `path`, which it replaces in one step if the block succeeds.

    keep_suffix: the temporary file has the ending of `path`, for what goes by it.
    After an error `path` is unchanged; a kill leaves at most a hidden file beside it. Raises
    ReellamaError, with the reason, when the file cannot be written.
    """
    if path.exists() and not path.is_file():
        raise ReellamaError(f"cannot save {path}: it is not a file")
    target = Path(os.path.realpath(path))  # a link stays a link
    temporary = None
    try:
        suffix = target.suffix if keep_suffix else ""
        descriptor, name = tempfile.mkstemp(suffix, f".{target.name}.", target.parent)
        os.close(descriptor)
        temporary = Path(name)
        yield temporary
        _sync(temporary)
        # Temporary files are private: give it the permissions of the old file, or the usual ones.
        os.chmod(temporary, path.stat().st_mode if path.exists() else 0o666 & ~_umask())
        temporary.replace(target)
    except OSError as error:
        kept = "; the old file is as it was" if path.exists() else ""
        raise ReellamaError(f"cannot save {path}: {error.strerror}{kept}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
