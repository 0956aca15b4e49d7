"""Pictures and videos of a message, as the encoder takes them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from reellama.gguf_tools.errors import ReellamaError

MediaKind = Literal["picture", "video"]


class MediaError(ReellamaError):
    """Bytes, a path or a URL that cannot be watched.

    status: as in HTTP: 400 for what is broken, 403 for what is not allowed, 404 for what is not
    there, 413 for too large, 503 for what may be tried again.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class StoredContent:
    """The bytes of a picture or video that lie in a file.

    sha256: what the content is known by; see `reellama.pipeline.video.file_digest`.
    holder: keeps a file of the server's own there while it lives.
    state: of a file that others may write: its `file_state` when it was looked at.
    """

    path: Path
    sha256: bytes
    size: int
    kind: MediaKind
    holder: object = field(default=None, compare=False, repr=False)
    state: tuple[int, ...] | None = None

    @property
    def has_changed(self) -> bool:
        """Whether the file is another one by now, or was written."""
        try:
            return self.state not in (None, file_state(self.path.lstat()))
        except OSError:
            return True


Content = bytes | StoredContent


@dataclass(frozen=True)
class MediaItem:
    """A picture or a video, or pictures with times that are one video.

    contents: its bytes, or those of each of the pictures.
    times: seconds at which the pictures appear, ascending; None where they are not one video.
    name: what the client calls it, or "".
    options: how this one is watched, over what the request says; see `video_options`.
    """

    contents: tuple[Content, ...]
    times: tuple[float, ...] | None = None
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_plain(self) -> bool:
        """Whether the item has content alone, so that it may be one clip with its neighbours."""
        return self.times is None and not self.name and not self.options


def file_state(status: os.stat_result) -> tuple[int, ...]:
    """What tells a file from the same one after a change, and from one put in its place."""
    changed = (status.st_mtime_ns, status.st_ctime_ns)
    return (status.st_dev, status.st_ino, status.st_size, *changed)


def content_digest(content: Content) -> bytes:
    """The SHA-256 of a content's bytes."""
    return hashlib.sha256(content).digest() if isinstance(content, bytes) else content.sha256
