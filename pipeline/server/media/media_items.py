"""Pictures and videos of a message, as `MediaEncoder` takes them."""

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
    """A picture or video that cannot be read.

    status: HTTP's: 400 if it is broken, 403 if it is not allowed, 404 if it does not exist, 413 if
    it is too large, 503 if the request may be sent again.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class StoredContent:
    """A picture or video in a file.

    sha256: identifies the content; see `reellama.pipeline.video.file_digest`.
    holder: an object that keeps a file of the server in existence while it is referenced.
    state: `file_state` when the digest was made, for a file that others may write.
    """

    path: Path
    sha256: bytes
    size: int
    kind: MediaKind
    holder: object = field(default=None, compare=False, repr=False)
    state: tuple[int, ...] | None = None

    @property
    def has_changed(self) -> bool:
        """Whether the file was written or replaced since its digest was made."""
        try:
            return self.state not in (None, file_state(self.path.lstat()))
        except OSError:
            return True


Content = bytes | StoredContent


@dataclass(frozen=True)
class MediaItem:
    """A picture or a video, or pictures with times that are one video.

    contents: its bytes, or those of each of the pictures.
    times: seconds at which the pictures appear, ascending; None if they are not one video.
    name: the name that the client gives it, or "".
    options: options of this item, which override those of the request; see `video_options`.
    """

    contents: tuple[Content, ...]
    times: tuple[float, ...] | None = None
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_plain(self) -> bool:
        """Whether the item is only its content, so that it may be joined with its neighbours."""
        return self.times is None and not self.name and not self.options


def file_state(status: os.stat_result) -> tuple[int, ...]:
    """Device, inode, size and times: equal unless a file was written or replaced."""
    changed = (status.st_mtime_ns, status.st_ctime_ns)
    return (status.st_dev, status.st_ino, status.st_size, *changed)


def content_digest(content: Content) -> bytes:
    """The SHA-256 of a content's bytes."""
    return hashlib.sha256(content).digest() if isinstance(content, bytes) else content.sha256
