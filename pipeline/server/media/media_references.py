"""References to pictures and videos in requests, the same in every protocol.

A picture or video is given as one of

    data       base64, or a data URL
    url        a data URL, or a file: or http: one that the settings allow
    file_id    a file that was sent to /v1/files
    images     several pictures, each one of the above as text, that are one video

and may have more fields: `name`, `times` (seconds of its `images`), and the options of the command
line (`VIDEO_OPTIONS`: frames, sampling, fps, start, end, subtitles, tokens, pooling).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reellama.pipeline.server.files.file_store import FILE_ID, FileStore
from reellama.pipeline.server.media.base64_data import decode_base64
from reellama.pipeline.server.media.fetch import fetch
from reellama.pipeline.server.media.local_files import local_file
from reellama.pipeline.server.media.media_items import Content, MediaError, MediaItem
from reellama.pipeline.server.request_context import readable_dirs
from reellama.pipeline.server.settings import Settings
from reellama.pipeline.server.video_options import MAX_FRAMES, VIDEO_OPTIONS

MAX_NAME_CHARACTERS = 200
MAX_IMAGES = 4 * MAX_FRAMES  # pictures of a video; of these, at most MAX_FRAMES are taken
MAX_SHOWN_CHARACTERS = 60  # of a URL in an error


class VideoFields(BaseModel):
    """Optional fields of a picture or video, in every protocol."""

    name: str | None = Field(None, max_length=MAX_NAME_CHARACTERS)
    times: list[float] | None = Field(None, min_length=1, max_length=MAX_IMAGES)
    frames: int | None = None
    sampling: str | None = None
    fps: float | None = None
    start: float | str | None = None
    end: float | str | None = None
    subtitles: str | None = None
    tokens: int | None = None
    pooling: str | None = None

    @model_validator(mode="after")
    def _check_times(self) -> VideoFields:
        times = self.times or []
        if not all(math.isfinite(t) and t >= 0 for t in times) or any(
            b <= a for a, b in pairwise(times)
        ):
            raise ValueError("times are seconds from 0 on, each later than the one before")
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The given ones of `VIDEO_OPTIONS`."""
        options = {name: getattr(self, name) for name in VIDEO_OPTIONS}
        return {name: value for name, value in options.items() if value is not None}


class MediaReference(VideoFields):
    """A picture or video with its optional fields."""

    model_config = ConfigDict(extra="ignore")
    data: str | None = None
    url: str | None = None
    file_id: str | None = None
    images: list[str] | None = Field(None, min_length=1, max_length=MAX_IMAGES)

    @model_validator(mode="after")
    def _check_one_source(self) -> MediaReference:
        sources = [self.data, self.url, self.file_id, self.images]
        if sum(source is not None for source in sources) != 1:
            raise ValueError("give one of data, url, file_id and images")
        if self.times is not None and len(self.times) != len(self.images or ()):
            raise ValueError("times are those of images: give one for each")
        return self


async def read_media(
    references: Sequence[MediaReference], settings: Settings, files: FileStore
) -> tuple[MediaItem, ...]:
    """Read pictures and videos. Raises MediaError if one cannot or may not be read."""
    return tuple([await _read_item(reference, settings, files) for reference in references])


async def _read_item(reference: MediaReference, settings: Settings, files: FileStore) -> MediaItem:
    if reference.images is not None:
        contents = [await read_text(text, settings, files) for text in reference.images]
        # By default pictures are a second apart, like those of a folder.
        times = reference.times or [float(i) for i in range(len(contents))]
        return MediaItem(tuple(contents), tuple(times), reference.name or "", reference.options)
    if reference.file_id is not None:
        held = await asyncio.to_thread(files.hold, reference.file_id)
        name = reference.name or held.stored.filename
        return MediaItem((held.content,), None, name, reference.options)
    if reference.url is not None:
        content: Content = await read_url(reference.url, settings)
    else:
        content = await asyncio.to_thread(decode_base64, reference.data or "")
    return MediaItem((content,), None, reference.name or "", reference.options)


async def read_text(text: str, settings: Settings, files: FileStore) -> Content:
    """Read a picture or video given as a URL, the id of a file, or base64."""
    if FILE_ID.fullmatch(text):
        return (await asyncio.to_thread(files.hold, text)).content
    if "://" in text[:12] or text[:5].lower() == "data:":
        return await read_url(text, settings)
    return await asyncio.to_thread(decode_base64, text)


async def read_url(url: str, settings: Settings) -> Content:
    """Read a data URL, a file: URL in an allowed folder, or an http: URL of an allowed host."""
    try:
        parts = urlsplit(url if url[:5].lower() != "data:" else "data:")
    except ValueError as error:
        raise MediaError("not a URL: send the bytes as data:video/mp4;base64,...") from error
    # In a thread, because a video takes long enough to delay the tokens of other answers.
    if parts.scheme == "data":
        return await asyncio.to_thread(decode_base64, unquote(url) if "%" in url[:99] else url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return await asyncio.to_thread(local_file, unquote(parts.path), readable_dirs(settings))
    if parts.scheme in ("http", "https"):
        return await fetch(url, settings.allow_urls, settings.max_body, settings.fetch_seconds)
    shown = url if len(url) <= MAX_SHOWN_CHARACTERS else url[:MAX_SHOWN_CHARACTERS] + "..."
    raise MediaError(f"cannot read {shown}: send the bytes as data:video/mp4;base64,...")
