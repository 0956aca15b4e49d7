"""Videos that come through a pipe: `cat a.webm | reellama ask - "..."` and `<(...)` of a shell.

FFmpeg must seek, so the content of a pipe is written to a temporary file.
"""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, TypeVar

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.temporary_folders import temporary_folder

Paths = TypeVar("Paths", Path, list[Path], "list[Path] | None")
STDIN = Path("-")
PIECE = 16 << 20  # bytes
# Bytes of the disk that stay free: a pipe may bring an endless video, and a full disk breaks other
# programs.
MIN_FREE = 1 << 30


def as_file(path: Path) -> Path:
    """`path`; for a pipe or "-" (stdin) a file with its content, removed when the program exits.

    Raises ReellamaError if nothing comes through the pipe, or more than the disk holds.
    """
    if path != STDIN and not path.is_fifo():
        return path
    if path == STDIN and sys.stdin.isatty():
        raise ReellamaError("-: no video comes in; pipe one: cat video.mp4 | reellama ask - ...")
    until_exit = ExitStack()
    atexit.register(until_exit.close)
    folder = until_exit.enter_context(temporary_folder())
    copy = folder / ("stdin" if path == STDIN else path.name)
    with ExitStack() as stack:
        pipe = sys.stdin.buffer if path == STDIN else stack.enter_context(open(path, "rb"))
        _copy(pipe, copy, path)
    if not copy.stat().st_size:
        raise ReellamaError(f"{path}: nothing came through the pipe; does what feeds it work?")
    return copy


def _copy(pipe: BinaryIO, copy: Path, name: Path) -> None:
    """Write the content of `pipe`. Raises ReellamaError, and removes the copy, for too much."""
    with open(copy, "wb") as file:
        while piece := pipe.read(PIECE):
            file.write(piece)
            if shutil.disk_usage(copy.parent).free < MIN_FREE:
                size = file.tell() / 1e9
                copy.unlink()
                raise ReellamaError(
                    f"{name}: {size:.1f} GB came through the pipe and it goes on, but the disk of "
                    f"{tempfile.gettempdir()} is nearly full; pipe a part of it, or set TMPDIR to "
                    "a folder on another disk"
                )


def as_files(videos: Paths) -> Paths:
    """`as_file` for an argument of the command line: one path, several, or None."""
    if isinstance(videos, Path):
        return as_file(videos)
    if videos and videos.count(STDIN) > 1:
        raise ReellamaError("-: stdin brings one video; save the others to files")
    return videos and [as_file(path) for path in videos]
