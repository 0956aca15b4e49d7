"""The server's Unix socket, by which `reellama ask` finds a running server of the same user.

Each server has one in the user's runtime folder: the folder can be entered by its owner alone
(0700), and the socket used by its owner alone (0600), so every client of it may name files
and needs no token. A client first asks ABOUT whether both are the same program with the same
bundle. Nothing heavy is imported here: `ask` looks for a server before it loads anything.
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

from reellama.gguf_tools.user_paths import expand_user

PATTERN = "serve-*.sock"
ABOUT = "/api/local"  # the path of a server's identity
CONNECT_SECONDS = 1.0  # a server that does not take a connection in this time is no help


def folder() -> Path:
    """The folder of the sockets, which may not exist yet."""
    with warnings.catch_warnings():  # platformdirs warns of a missing XDG_RUNTIME_DIR
        warnings.simplefilter("ignore")
        return Path(platformdirs.user_runtime_dir("reellama", appauthor=False))


def identity(bundle: str, mmproj: Path | None, llm: str | None, tiles: bool) -> dict[str, Any]:
    """The program, bundle and LLM: a server with the same ones answers as this process would."""
    return {
        "version": version("reellama"),
        "program": os.path.realpath(Path(__file__).parents[3]),
        "bundle": _real(bundle),
        "mmproj": _real(mmproj),
        "llm": _real(llm),
        "tiles": tiles,
    }


def sockets() -> list[Path]:
    """Sockets of this user's servers, without those that other users could have created."""
    if not hasattr(socket, "AF_UNIX"):
        return []
    try:
        sockets_folder = folder()
    except OSError:  # another user has created it
        return []
    if not _is_private(sockets_folder, stat.S_ISDIR):
        return []
    paths = sorted(sockets_folder.glob(PATTERN))
    return [path for path in paths if _is_private(path, stat.S_ISSOCK)]


def connect(path: Path) -> socket.socket:
    """Connect to a server's socket. Raises OSError where no server listens any more."""
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
    """Listen on a socket of this process, removed at the end; None where that is not possible."""
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
        sockets_folder = folder()
        path = sockets_folder / PATTERN.replace("*", str(os.getpid()))
        sockets_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(sockets_folder, stat.S_ISDIR):  # another user's, or open to others
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
            continue  # perhaps busy: its socket stays


def _is_private(path: Path, is_kind: Any) -> bool:
    """Whether a path is of this kind, belongs to this user, and gives no other user access."""
    with suppress(OSError):
        status = path.lstat()
        is_own = status.st_uid == os.geteuid() and not status.st_mode & 0o77
        return is_own and is_kind(status.st_mode)
    return False


def _real(name: str | Path | None) -> str | None:
    """The real path of an existing file or folder; any other name unchanged."""
    if name is None:
        return None
    path = expand_user(name)
    return os.path.realpath(path) if path.exists() else str(name)
