"""The server's Unix socket, by which `reellama ask` finds a running server of the same user.

Each server has one in the user's runtime folder: the folder can be entered by its owner alone
(0700), and the socket used by its owner alone (0600), so every client of it may name files
and needs no token. What a client asks first is whether both are the same program with the same
bundle. Nothing heavy is imported here: `ask` looks before it loads anything.
"""

from __future__ import annotations

import os
import socket
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import platformdirs

PATTERN = "serve-*.sock"
ABOUT = "/api/local"  # where a server says what it is
CONNECT_SECONDS = 1.0  # a server that does not take a connection in this time is no help


def folder() -> Path:
    """Where the sockets are; it need not be there."""
    with warnings.catch_warnings():  # a machine without XDG_RUNTIME_DIR is told of it: no matter
        warnings.simplefilter("ignore")
        return Path(platformdirs.user_runtime_dir("reellama", appauthor=False))


def identity(bundle: str, mmproj: Path | None, llm: str | None) -> dict[str, Any]:
    """What must be equal for a server to answer as this process would: program, bundle and LLM."""
    return {
        "version": version("reellama"),
        "program": os.path.realpath(Path(__file__).parents[3]),
        "bundle": _real(bundle),
        "mmproj": _real(mmproj),
        "llm": _real(llm),
    }


def sockets() -> list[Path]:
    """Sockets of servers of this user; those that others could have put there are passed over."""
    if not hasattr(socket, "AF_UNIX"):
        return []
    try:
        place = folder()
    except OSError:  # somebody else has taken its name
        return []
    if not _is_private(place, stat.S_ISDIR):
        return []
    return [path for path in sorted(place.glob(PATTERN)) if _is_private(path, stat.S_ISSOCK)]


def connect(path: Path) -> socket.socket:
    """A connection to a server's socket. Raises OSError where nobody listens any more."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(CONNECT_SECONDS)
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    connection.settimeout(None)
    return connection


@contextmanager
def listening() -> Iterator[tuple[Path, socket.socket] | None]:
    """A socket of this process, which is removed at the end; None where there can be none."""
    listener = _listen()
    try:
        yield listener
    finally:
        if listener is not None:
            listener[0].unlink(missing_ok=True)
            listener[1].close()


def _listen() -> tuple[Path, socket.socket] | None:
    if not hasattr(socket, "AF_UNIX"):
        return None
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        place = folder()
        path = place / PATTERN.replace("*", str(os.getpid()))
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(place, stat.S_ISDIR):  # somebody else's, or open to others
            raise OSError
        _sweep()
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(128)
    except OSError:  # also for a path that is too long for a socket
        listener.close()
        return None
    return path, listener


def _sweep() -> None:
    """Remove the sockets of servers that were killed."""
    for path in sockets():
        try:
            connect(path).close()
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError:
            continue  # busy, perhaps: it stays


def _is_private(path: Path, is_kind: Any) -> bool:
    """Whether it is of this kind, belongs to this user, and is closed to everybody else."""
    with suppress(OSError):
        found = path.lstat()
        return is_kind(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o77
    return False


def _real(name: str | Path | None) -> str | None:
    """A path as the one that it is; a name of something else as it stands."""
    if name is None:
        return None
    path = Path(name).expanduser()
    return os.path.realpath(path) if path.exists() else str(name)
