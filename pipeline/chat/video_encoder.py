"""Frames of a video file -> soft tokens, each file once: its encoding is kept by content.

The same bytes, read in the same way for the same bundle, are not decoded again. `reellama serve`
keeps its encodings in the same cache.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reellama.gguf_tools.atomic_write import stamp
from reellama.models.array_cache import ArrayCache
from reellama.models.bundle import Bundle
from reellama.models.encoded_frames import EncodedFrames, encoded_frames, encoding_key
from reellama.models.open_bundle import VideoBundle
from reellama.models.token_pooling.options import DEFAULT_POOLING, PoolingOptions
from reellama.pipeline.chat.clip_facts import FACTS, ClipFacts
from reellama.pipeline.chat.scenes_note import scenes_note
from reellama.pipeline.chat.subtitle_answers import between
from reellama.pipeline.chat.timings import Timings
from reellama.pipeline.progress_callbacks import Progress
from reellama.pipeline.video.clip import Clip, UnreadFrames, VideoInput, opened, read_frames
from reellama.pipeline.video.file_digest import file_digest
from reellama.pipeline.video.read_options import VideoReadOptions
from reellama.pipeline.video.subtitles import Subtitle, sidecars


class EncodedVideoFile(NamedTuple):
    """A video's clip with subtitles, its soft tokens, and the caveat of `Video`."""

    clip: Clip
    encoded: EncodedFrames
    footage_caveat: str


class VideoEncoder:
    """Encodes videos with a bundle.

    Attributes:
        cache: cache of soft tokens; None disables it.
        busy: whether frames are being read or encoded, which takes a core or two.
        was_cached: whether the last video was in the cache.
    """

    def __init__(self, bundle: VideoBundle, cache: ArrayCache | None) -> None:
        self.bundle, self.cache = bundle, cache
        self.busy = self.was_cached = False

    def encode(
        self,
        path: Path,
        read_options: VideoReadOptions,
        timings: Timings,
        progress: Progress | None = None,
        pooling: PoolingOptions = DEFAULT_POOLING,
        context_left: Callable[[], int] | None = None,
    ) -> EncodedVideoFile:
        """Encode a video, or read its encoding from the cache.

        The frames of a cached video are read only when they are used.

        Args:
            timings: the stages to which the time is added.
            progress: called with the frames read and their total.
            pooling: the soft tokens of the video, for a vision GGUF.
            context_left: returns the positions left in the context, for a vision GGUF. It is not
                called for a trained bundle, whose LLM may still be loading.

        Raises VideoError for a video that cannot be read.
        """
        read_options = read_options.for_bundle(self.bundle)
        is_trained = isinstance(self.bundle, Bundle)
        cells = None if is_trained or context_left is None else context_left()
        with timings.stage("read"):
            before = _stamps(path)
            key = self._key(path, read_options, pooling, cells)
            if self.cache is not None and key is not None:
                arrays = self.cache.read(key)
                cached = None if arrays is None else _from_cache(arrays, path, read_options)
                if cached is not None:
                    self.was_cached = True
                    return cached
        self.busy, self.was_cached = True, False
        try:
            clip, features, encoded = self._encode_video(
                path, read_options, timings, progress, pooling, cells
            )
        finally:
            self.busy = False
        caveat = self.bundle.footage_caveat(features)
        if caveat and (note := scenes_note(clip.times, clip.frames)):
            clip = replace(clip, notes=(*clip.notes, note))
        result = EncodedVideoFile(clip, encoded, caveat)
        # A file or a bundle that was written meanwhile may be half old and half new.
        changed = self.bundle.changed or before != _stamps(path)
        if self.cache is not None and key is not None and not changed:
            # A file of subtitles beside the video is no part of its content: it is read each time.
            lines = None if sidecars(clip.path) else clip.subtitles
            facts = ClipFacts(clip.duration, clip.notes, clip.facts, caveat, lines)
            self.cache.write(key, **encoded._asdict(), **{FACTS: facts.to_array()})
        return result

    def _encode_video(
        self,
        path: Path,
        read_options: VideoReadOptions,
        timings: Timings,
        progress: Progress | None,
        pooling: PoolingOptions,
        cells: int | None,
    ) -> tuple[Clip, np.ndarray, EncodedFrames]:
        """The clip of the encoded frames, their features `[T, cells, channels]`, soft tokens."""
        # The networks are loaded meanwhile. If that fails, their first use raises.
        with ThreadPoolExecutor(1) as beside:
            with timings.stage("read"), opened(path) as source:
                beside.submit(self.bundle.prepare)

                def prepare_projection(frame: np.ndarray) -> None:
                    beside.submit(self.bundle.prepare_projection, [frame])

                clip = read_frames(
                    source, read_options, progress=progress, on_first_frame=prepare_projection
                )
                clip = replace(clip, subtitles=_subtitles(source, read_options))
            with timings.stage("tower"):
                chosen = self.bundle.choose_frames(clip.frames, clip.times, pooling, cells)
                features = self.bundle.chosen_features(chosen)
            with timings.stage("projector"):
                array = self.bundle.project(features, clip.times[chosen.chosen])
        encoded = encoded_frames(array, chosen, clip.frames, clip.times)
        kept = [clip.frames[i] for i in chosen.chosen]
        return replace(clip, frames=kept, times=encoded.times), features, encoded

    def _key(
        self,
        path: Path,
        read_options: VideoReadOptions,
        pooling: PoolingOptions,
        cells: int | None,
    ) -> str | None:
        """What the soft tokens of a video depend on; None for what cannot be read."""
        if self.cache is None:
            return None
        with suppress(OSError):
            version = self.bundle.version + self.bundle.encoding_version(
                pooling, read_options.n_frames, cells
            )
            return encoding_key(_digests(path), read_options, version)
        return None


def _stamps(path: Path) -> list[tuple[int, int]]:
    """Sizes and dates of a file or a folder's files, to detect changes while it is read."""
    return [stamp(file) for file in (sorted(path.iterdir()) if path.is_dir() else [path])]


def _digests(path: Path) -> list[bytes]:
    """SHA-256 of the content of a file, or of the names and contents of a folder's files."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file())
        return [part for file in files for part in (os.fsencode(file.name), _digest(file))]
    return [_digest(path)]


def _digest(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file_digest(path, file)


def _subtitles(video: VideoInput, read_options: VideoReadOptions) -> tuple[Subtitle, ...]:
    """The subtitles of the part of a video that `read_options` selects, unless turned off."""
    if read_options.subtitles != "auto":
        return ()
    with opened(video) as source:
        return between(source.subtitles(), read_options)


def _frames_at(
    times: np.ndarray, path: Path, read_options: VideoReadOptions
) -> Sequence[np.ndarray]:
    """The frames of a video at `times`."""
    clip = read_frames(path, read_options)
    frames = zip(clip.times, clip.frames, strict=True)
    return [frame for time, frame in frames if time in times]


def _from_cache(
    arrays: dict[str, np.ndarray], path: Path, read_options: VideoReadOptions
) -> EncodedVideoFile | None:
    """A clip and its soft tokens from the arrays of a cache; None for invalid arrays."""
    try:
        facts = ClipFacts.from_array(arrays.pop(FACTS))
        encoded = EncodedFrames(**arrays)
        frames = UnreadFrames(
            path,
            len(encoded.times),
            encoded.frame_size,
            lambda: _frames_at(encoded.times, path, read_options),
        )
        subtitles = facts.subtitles
        if subtitles is None or sidecars(path):
            subtitles = _subtitles(path, read_options)
        duration, notes = facts.duration, facts.notes
        clip = Clip(frames, encoded.times, duration, path, notes, facts.facts, subtitles)
        return EncodedVideoFile(clip, encoded, facts.footage_caveat)
    except (KeyError, TypeError, ValueError):
        return None
