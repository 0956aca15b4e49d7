"""Pictures and videos that came as bytes, decoded and encoded to soft tokens; each once.

Files are read in a child process (`decode_process`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from reellama.gguf_tools import heap
from reellama.gguf_tools.runtime.free_cores import long_computation
from reellama.gguf_tools.text.prompt_parts import Prompt, Text
from reellama.models.encoded_frames import EncodedFrames, encoding_key, frame_size
from reellama.pipeline.chat.clip_facts import ClipFacts
from reellama.pipeline.chat.conversation import Video
from reellama.pipeline.chat.scenes_note import scenes_note
from reellama.pipeline.chat.subtitle_answers import as_text
from reellama.pipeline.server.admission.fair_semaphore import FairSemaphore
from reellama.pipeline.server.admission.work_threads import WorkThreads
from reellama.pipeline.server.media.decode_process import (
    DecodedFrames,
    MediaLimits,
    decode,
    read_subtitles,
)
from reellama.pipeline.server.media.media_items import (
    MediaError,
    MediaItem,
    content_digest,
    content_size,
)
from reellama.pipeline.server.media.media_kind import content_kind
from reellama.pipeline.server.media.soft_token_cache import EncodedClip, SoftTokenCache
from reellama.pipeline.server.request_context import add_notes
from reellama.pipeline.server.video_options import (
    DEFAULT_VIDEO_OPTIONS,
    VideoOptions,
    video_options,
)
from reellama.pipeline.video.clip import Clip, UnreadFrames
from reellama.pipeline.video.read_options import VideoReadOptions
from reellama.pipeline.video.subtitles import Subtitle

if TYPE_CHECKING:
    from reellama.models.open_bundle import VideoBundle

T = TypeVar("T")

# Children that decode at the same time.
MAX_CHILDREN = 2
# Characters of subtitles beside a video where nobody knows the context.
DEFAULT_SUBTITLE_CHARACTERS = 2048
MAX_VIDEOS_WITH_SUBTITLES = 64  # whose subtitles are kept in memory


class EncodedMedia(NamedTuple):
    """What stands for a message's clips in a prompt, and each of them by itself."""

    parts: Prompt
    videos: list[Video]


class MediaEncoder:
    """Bytes in, soft tokens out. Equal bytes are decoded once; see `SoftTokenCache`."""

    def __init__(self, limits: MediaLimits, cache: SoftTokenCache) -> None:
        self.limits = limits
        self.cache = cache
        self._children = FairSemaphore(MAX_CHILDREN)
        self._tower = WorkThreads("tower")  # one: it takes all cores that there are
        self._kept_subtitles: dict[
            tuple[bytes, float | None, float | None], tuple[Subtitle, ...]
        ] = {}

    def close(self) -> None:
        """End the encoder's thread."""
        self._tower.close()

    async def encode(
        self,
        media: Sequence[MediaItem],
        bundle: VideoBundle,
        options: VideoOptions = DEFAULT_VIDEO_OPTIONS,
        room: int | None = None,
        with_subtitles: bool = False,
    ) -> EncodedMedia:
        """What stands for pictures and videos in a prompt, one clip after another.

        Every video is a clip of its own, and so is every picture, unless the bundle joins pictures
        that follow each other and of which nothing is said: then they are one clip, a second
        apart. Where there are several clips, those that have a name have it before them. `options`
        are for all of them, and each may have its own. room: cells of the context for each clip.
        with_subtitles: whether they are read also for a bundle that does not take them as text.
        Raises MediaError with status 400, 404, 413 or 503, and ReellamaError for options that this
        bundle does not take.
        """
        clips = await asyncio.to_thread(self._clips, media, bundle.joins_pictures)
        watched = [video_options(clip.options, options) for clip in clips]
        found = await _gather_or_cancel(
            self._encoded(clip, bundle, how.reading)
            for clip, how in zip(clips, watched, strict=True)
        )
        seen = EncodedMedia([], [])
        for clip, how, (encoded, about) in zip(clips, watched, found, strict=True):
            parts = await asyncio.to_thread(bundle.prompt_parts, encoded, how.pooling, room)
            lines: tuple[Subtitle, ...] = ()
            if how.reading.subtitles == "auto" and (bundle.reads_text or with_subtitles):
                lines = await self._subtitles(clip, how.reading)
            if bundle.reads_text and (said := as_text(lines, room or DEFAULT_SUBTITLE_CHARACTERS)):
                parts = [*parts, Text(said)]
            if clip.name and len(clips) > 1:
                seen.parts.append(Text(f"{clip.name}:\n"))
            seen.parts.extend(parts)
            seen.videos.append(_video(clip.name, parts, encoded, about, lines))
        return seen

    def _clips(self, media: Sequence[MediaItem], joins_pictures: bool) -> list[MediaItem]:
        for content in (content for item in media for content in item.contents):
            if (size := content_size(content)) > self.limits.max_bytes:
                raise MediaError(
                    f"a picture or video of {_mib(size)}: at most "
                    f"{_mib(self.limits.max_bytes)} are taken",
                    413,
                )
        clips: list[MediaItem] = []
        plain = groupby(media, key=_is_plain_picture)
        for is_plain, items in plain:
            if is_plain and joins_pictures:
                clips.append(MediaItem(tuple(c for item in items for c in item.contents)))
            else:
                clips += items
        if len(clips) > self.limits.max_clips:
            raise MediaError(
                f"{len(clips)} pictures and videos in one message: at most "
                f"{self.limits.max_clips} are taken",
                413,
            )
        return clips

    async def _encoded(
        self, clip: MediaItem, bundle: VideoBundle, asked: VideoReadOptions
    ) -> EncodedClip:
        reading = asked.with_defaults(frames=bundle.frames, max_side=bundle.max_side)

        async def make() -> EncodedClip:
            async with self._children.acquire():
                seen = await decode(clip, reading, self.limits)
            return await self._tower.run(lambda: self._encode(seen, bundle))

        key = await asyncio.to_thread(_key, clip, reading, bundle)
        found = await self.cache.get(key, make)
        add_notes(found.about.notes)
        return found

    async def _subtitles(self, clip: MediaItem, reading: VideoReadOptions) -> tuple[Subtitle, ...]:
        """The subtitles in a video's file."""
        if clip.times is not None or {content_kind(each) for each in clip.contents} != {"video"}:
            return ()
        key = (content_digest(clip.contents[0]), reading.start, reading.end)
        if key not in self._kept_subtitles:
            with suppress(MediaError):  # whatever ails the file was told with its frames
                async with self._children.acquire():
                    self._kept_subtitles[key] = await read_subtitles(clip, reading, self.limits)
            while len(self._kept_subtitles) > MAX_VIDEOS_WITH_SUBTITLES:
                del self._kept_subtitles[next(iter(self._kept_subtitles))]
        return self._kept_subtitles.get(key, ())

    def _encode(self, seen: DecodedFrames, bundle: VideoBundle) -> EncodedClip:
        with long_computation():
            features = bundle.features(seen.frames)
            array = bundle.project(features, seen.times)
            caveat = bundle.footage_caveat(features)
        heap.trim_heap()
        if bundle.changed:  # its weights may be partly old, and must not be kept by its version
            raise MediaError(
                f"the bundle {bundle.name} was just changed: send the request again", 503
            )
        encoded = EncodedFrames(array, seen.times, frame_size(seen.frames))
        notes = seen.about.notes
        if caveat and (note := scenes_note(seen.times, seen.frames)):
            notes = (*notes, note)
        return EncodedClip(encoded, replace(seen.about, notes=notes, footage_caveat=caveat))


def _video(
    name: str,
    parts: Prompt,
    encoded: EncodedFrames,
    about: ClipFacts,
    lines: tuple[Subtitle, ...],
) -> Video:
    """A clip as the command line has it; its frames are gone."""
    path = Path(name or "the video")

    def gone() -> Sequence[np.ndarray]:
        raise MediaError(f"{path}: only what was seen of it is kept")

    frames = UnreadFrames(path, len(encoded.times), encoded.frame_size, gone)
    clip = Clip(frames, encoded.times, about.duration, path, about.notes, about.facts, lines)
    return Video(path, parts, clip, about.footage_caveat)


async def _gather_or_cancel(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The outcomes of all; where one fails, the others end, and its error is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        tasks.clear()  # an error has this frame, and a task its error


def _is_plain_picture(item: MediaItem) -> bool:
    kinds = {content_kind(content) for content in item.contents}
    if item.times is not None and kinds != {"picture"}:
        raise MediaError("the frames of a video with times must be pictures")
    return item.is_plain and kinds == {"picture"}


def _key(clip: MediaItem, reading: VideoReadOptions, bundle: VideoBundle) -> str:
    """What the soft tokens of a clip depend on, as a name for a file."""
    times = [] if clip.times is None else [repr(clip.times).encode()]
    digests = (content_digest(content) for content in clip.contents)
    return encoding_key([*digests, *times], reading, bundle.version)


def _mib(n: int) -> str:
    return f"{n / (1 << 20):.1f} MiB"
