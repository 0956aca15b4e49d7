"""Pictures and videos of a message, as the encoder takes them."""

from __future__ import annotations

import hashlib
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
    """The bytes of a picture or video that lie in a file of the server's own.

    holder: keeps the file there while it lives.
    """

    path: Path
    sha256: bytes
    size: int
    kind: MediaKind
    holder: object = field(default=None, compare=False, repr=False)


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


def content_size(content: Content) -> int:
    """How many bytes a content has."""
    return len(content) if isinstance(content, bytes) else content.size


def content_digest(content: Content) -> bytes:
    """The SHA-256 of a content's bytes."""
    return hashlib.sha256(content).digest() if isinstance(content, bytes) else content.sha256
