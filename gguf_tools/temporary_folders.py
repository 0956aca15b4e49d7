"""Temporary folders that are removed however the process ends."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

# `read` returns when the pipe is closed, which the kernel does at any end of the process that holds
# the other end. A signal to a whole process group or service does not end the shell before.
REMOVE_AT_END = 'trap "" HUP INT TERM; read -r line; rm -rf -- "$1"'


@contextmanager
def temporary_folder(parent: str | Path | None = None, prefix: str = "reellama-") -> Iterator[Path]:
    """A new folder in `parent`, or where temporary files are kept, until the block ends.

    SIGTERM, SIGKILL, an abort of llama.cpp and `os._exit` end a process without a chance to clean
    up. So a shell waits for the end of this process and then removes the folder. Where there is no
    shell, only the end of the block does.
    """
    folder = os.path.abspath(tempfile.mkdtemp(prefix=prefix, dir=parent))
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(_remover(folder))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield Path(folder)


def _remover(folder: str) -> subprocess.Popen[bytes]:
    """The shell that removes `folder` when its stdin is closed."""
    return subprocess.Popen(
        ["/bin/sh", "-c", REMOVE_AT_END, "sh", folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
