"""Locks the store, so that only a server that uses it alone removes abandoned files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


@contextmanager
def using_store(root: Path, sweep: Callable[[], None]) -> Iterator[None]:
    """Hold a shared lock of the store in the folder `root`.

    `sweep`, which removes abandoned files, is called first, unless another server uses the store:
    that server may still need such files, however old they are.
    """
    with ExitStack() as opened:
        try:
            root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(root, os.O_RDONLY)
            opened.callback(os.close, descriptor)
            _lock_shared(descriptor, sweep)
        except (OSError, ImportError):  # Windows and some file systems cannot lock folders
            sweep()
        yield


def _lock_shared(descriptor: int, when_alone: Callable[[], None]) -> None:
    """Take a shared lock of a folder; if no other process has one, call `when_alone` first.

    Raises OSError or ImportError where folders cannot be locked.
    """
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    else:
        when_alone()
    fcntl.flock(descriptor, fcntl.LOCK_SH)
