"""Videos that come through a pipe: `cat a.webm | reellama ask - "..."` and `<(...)` of a shell.

FFmpeg must go back and forth in a file, so what a pipe brings is written to a temporary one.
"""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TypeVar

from reellama.gguf_tools.errors import ReellamaError

Paths = TypeVar("Paths", Path, list[Path], "list[Path] | None")
STDIN = Path("-")


def as_file(path: Path) -> Path:
    """`path`, or for a pipe or "-" (stdin) a file of what it brought, until the program ends."""
    if path != STDIN and not path.is_fifo():
        return path
    if path == STDIN and sys.stdin.isatty():
        raise ReellamaError("-: no video comes in; pipe one: cat video.mp4 | reellama ask - ...")
    folder = tempfile.mkdtemp(prefix="reellama-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy = Path(folder) / ("stdin" if path == STDIN else path.name)
    with open(copy, "wb") as file:
        if path == STDIN:
            shutil.copyfileobj(sys.stdin.buffer, file)
        else:
            with open(path, "rb") as pipe:
                shutil.copyfileobj(pipe, file)
    if not copy.stat().st_size:
        raise ReellamaError(f"{path}: nothing came through the pipe; does what feeds it work?")
    return copy


def as_files(videos: Paths) -> Paths:
    """The same for what an argument of the command line holds: one path, some, or none."""
    if isinstance(videos, Path):
        return as_file(videos)
    if videos and videos.count(STDIN) > 1:
        raise ReellamaError("-: stdin brings one video; save the others to files")
    return videos and [as_file(path) for path in videos]
