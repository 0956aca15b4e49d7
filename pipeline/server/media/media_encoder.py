"""Encodes pictures and videos to soft tokens; files are decoded in a child process."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from reellama.gguf_tools import heap
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.runtime.free_cores import long_computation
from reellama.gguf_tools.text.prompt_parts import Prompt, Text
from reellama.models.encoded_frames import EncodedFrames, encoded_frames, encoding_key
from reellama.models.token_pooling.options import DEFAULT_POOLING, PoolingOptions
from reellama.pipeline.chat.clip_facts import ClipFacts
from reellama.pipeline.chat.conversation import Video
from reellama.pipeline.chat.scenes_note import scenes_note
from reellama.pipeline.chat.subtitle_answers import as_text
from reellama.pipeline.server.admission.fair_semaphore import FairSemaphore
from reellama.pipeline.server.admission.fair_thread_pool import FairThreadPool
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
)
from reellama.pipeline.server.media.media_kind import content_kind
from reellama.pipeline.server.media.soft_token_cache import EncodedClip, SoftTokenCache
from reellama.pipeline.server.request_context import CLIENT, LOCAL, add_notes
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

MAX_CHILDREN = 2  # that decode at the same time
DEFAULT_SUBTITLE_POSITIONS = 2048  # of a video, if the size of the context is not known
MAX_CACHED_SUBTITLES = 64  # videos


class EncodedMedia(NamedTuple):
    """The prompt parts of a message's clips, and the clips as videos of a conversation."""

    parts: Prompt
    videos: list[Video]


class MediaEncoder:
    """Bytes in, soft tokens out. Equal clips are encoded once; see `SoftTokenCache`."""

    def __init__(
        self,
        limits: MediaLimits,
        cache: SoftTokenCache,
        defaults: VideoOptions = DEFAULT_VIDEO_OPTIONS,
    ) -> None:
        self.limits = limits
        self.cache = cache
        self.defaults = defaults
        self._children = FairSemaphore(MAX_CHILDREN)
        self._tower = FairThreadPool("tower")  # one thread: the tower itself uses all cores
        # By digest of the file, start and end.
        self._subtitles: dict[tuple[bytes, float | None, float | None], tuple[Subtitle, ...]] = {}

    def close(self) -> None:
        """End the thread of the tower."""
        self._tower.close()

    async def encode(
        self,
        media: Sequence[MediaItem],
        bundle: VideoBundle,
        options: Mapping[str, Any] = MappingProxyType({}),
        context_left: int | None = None,
        with_subtitles: bool = False,
    ) -> EncodedMedia:
        """Encode pictures and videos, one clip after another.

        Every video is a clip, and so is every picture, unless the bundle joins pictures: then
        neighbours without name, times and options are one clip, a second apart. If there are
        several clips, each name precedes its clip. `options` are defaults for those of each item.
        context_left: cells of the context for each clip. with_subtitles: read subtitles even if
        the bundle does not take them as text. Raises MediaError with status 400, 404, 413 or 503,
        and ReellamaError for options that this bundle does not support.
        """
        clips = await asyncio.to_thread(self._make_clips, media, bundle.joins_pictures)
        default = video_options(options, self._defaults_for(bundle))
        clip_options = [video_options(clip.options, default) for clip in clips]
        encoded_clips = await _gather_or_cancel(
            self._encode_cached(clip, bundle, own.read_options, own.pooling, context_left)
            for clip, own in zip(clips, clip_options, strict=True)
        )
        encoded_media = EncodedMedia([], [])
        for clip, own, encoded in zip(clips, clip_options, encoded_clips, strict=True):
            frames, clip_facts = encoded
            parts = await asyncio.to_thread(bundle.prompt_parts, frames, own.pooling, context_left)
            lines: tuple[Subtitle, ...] = ()
            if own.read_options.subtitles == "auto" and (bundle.reads_text or with_subtitles):
                lines = await self._read_subtitles(clip, own.read_options)
            if bundle.reads_text:
                text = as_text(lines, context_left or DEFAULT_SUBTITLE_POSITIONS)
                parts = [*parts, Text(text)] if text else parts
            if clip.name and len(clips) > 1:
                encoded_media.parts.append(Text(f"{clip.name}:\n"))
            encoded_media.parts.extend(parts)
            encoded_media.videos.append(_video(clip.name, parts, frames, clip_facts, lines))
        return encoded_media

    def _defaults_for(self, bundle: VideoBundle) -> VideoOptions:
        """The server's default options, except for pooling that the bundle does not support."""
        if CLIENT.get() == LOCAL:  # `ask` sends its own defaults
            return DEFAULT_VIDEO_OPTIONS
        try:
            bundle.check_pooling(self.defaults.pooling)
        except ReellamaError:  # trained bundles have a fixed number of tokens
            return replace(self.defaults, pooling=DEFAULT_POOLING)
        return self.defaults

    def _make_clips(self, media: Sequence[MediaItem], joins_pictures: bool) -> list[MediaItem]:
        for content in (content for item in media for content in item.contents):
            # Uploaded files were limited when they were sent, and local files have no limit.
            if isinstance(content, bytes) and len(content) > self.limits.max_bytes:
                raise MediaError(
                    f"a picture or video of {_mib(len(content))}: at most "
                    f"{_mib(self.limits.max_bytes)} are taken",
                    413,
                )
        clips: list[MediaItem] = []
        for is_plain, items in groupby(media, key=_is_plain_picture):
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

    async def _encode_cached(
        self,
        clip: MediaItem,
        bundle: VideoBundle,
        read_options: VideoReadOptions,
        pooling: PoolingOptions,
        context_left: int | None,
    ) -> EncodedClip:
        read_options = read_options.for_bundle(bundle)
        version = bundle.version + bundle.encoding_version(
            pooling, read_options.n_frames, context_left
        )

        async def decode_and_encode() -> EncodedClip:
            async with self._children.acquire():
                decoded = await decode(clip, read_options, self.limits)
            return await self._tower.run(
                lambda: self._encode(decoded, bundle, pooling, context_left)
            )

        key = await asyncio.to_thread(_key, clip, read_options, version)
        encoded = await self.cache.get(key, decode_and_encode)
        add_notes(encoded.clip_facts.notes)
        return encoded

    async def _read_subtitles(
        self, clip: MediaItem, read_options: VideoReadOptions
    ) -> tuple[Subtitle, ...]:
        """The subtitles in a video's file; none for other clips."""
        if clip.times is not None or {content_kind(content) for content in clip.contents} != {
            "video"
        }:
            return ()
        key = (content_digest(clip.contents[0]), read_options.start, read_options.end)
        if key not in self._subtitles:
            try:
                async with self._children.acquire():
                    lines = await read_subtitles(clip, read_options, self.limits)
            except MediaError as error:  # errors of the frames were raised when those were decoded
                if error.status == 503:  # the file has changed: the key is no longer its own
                    return ()
                lines = ()  # what takes too long would do so again with the next question
            self._subtitles[key] = lines
            while len(self._subtitles) > MAX_CACHED_SUBTITLES:
                del self._subtitles[next(iter(self._subtitles))]
        return self._subtitles[key]

    def _encode(
        self,
        decoded: DecodedFrames,
        bundle: VideoBundle,
        pooling: PoolingOptions,
        context_left: int | None,
    ) -> EncodedClip:
        frames, times = decoded.frames, decoded.times
        with long_computation():
            chosen = bundle.choose_frames(frames, times, pooling, context_left)
            features = bundle.chosen_features(chosen)
            array = bundle.project(features, times[chosen.chosen])
            caveat = bundle.footage_caveat(features)
        heap.trim_heap()
        if bundle.changed:  # some weights may be old, so the result must not be cached
            raise MediaError(
                f"the bundle {bundle.name} was just changed: send the request again", 503
            )
        encoded = encoded_frames(array, chosen, frames, times)
        notes = decoded.clip_facts.notes
        if caveat and (note := scenes_note(times, frames)):
            notes = (*notes, note)
        return EncodedClip(encoded, replace(decoded.clip_facts, notes=notes, footage_caveat=caveat))


def _video(
    name: str,
    parts: Prompt,
    encoded: EncodedFrames,
    clip_facts: ClipFacts,
    lines: tuple[Subtitle, ...],
) -> Video:
    """A clip as a video of a conversation; its frames cannot be read again."""
    path = Path(name or "the video")

    def read_frames() -> Sequence[np.ndarray]:
        raise MediaError(f"{path}: only what was seen of it is kept")

    frames = UnreadFrames(path, len(encoded.times), encoded.frame_size, read_frames)
    clip = Clip(
        frames, encoded.times, clip_facts.duration, path, clip_facts.notes, clip_facts.facts, lines
    )
    return Video(path, parts, clip, clip_facts.footage_caveat)


async def _gather_or_cancel(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Like `asyncio.gather`, but if one coroutine fails the others are cancelled."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        tasks.clear()  # breaks the cycle of this frame, a task and its exception


def _is_plain_picture(item: MediaItem) -> bool:
    kinds = {content_kind(content) for content in item.contents}
    if item.times is not None and kinds != {"picture"}:
        raise MediaError("the frames of a video with times must be pictures")
    return item.is_plain and kinds == {"picture"}


def _key(clip: MediaItem, read_options: VideoReadOptions, version: str) -> str:
    """The key of a clip in the cache: a digest of all that its soft tokens depend on."""
    times = [] if clip.times is None else [repr(clip.times).encode()]
    digests = (content_digest(content) for content in clip.contents)
    return encoding_key([*digests, *times], read_options, version)


def _mib(n: int) -> str:
    return f"{n / (1 << 20):.1f} MiB"
