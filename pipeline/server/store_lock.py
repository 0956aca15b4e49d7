"""A store that several servers may use: one that is alone removes what killed ones left."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


@contextmanager
def using_store(root: Path, sweep: Callable[[], None]) -> Iterator[None]:
    """Use the store in the folder `root` until the block ends, or the process does.

    `sweep` removes what looks abandoned, and is called first. Another server may still use such
    files, however old they are, so it is not called while one uses the store.
    """
    with ExitStack() as opened:
        try:
            root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(root, os.O_RDONLY)
            opened.callback(os.close, descriptor)
            _lock_shared(descriptor, sweep)
        except (OSError, ImportError):  # no lock for folders: on Windows, or of this file system
            sweep()
        yield


def _lock_shared(descriptor: int, when_alone: Callable[[], None]) -> None:
    """Lock a folder together with others until it is closed; call `when_alone` first if there are
    none. Raises OSError, or ImportError, where there are no such locks."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    else:
        when_alone()
    fcntl.flock(descriptor, fcntl.LOCK_SH)
