"""An index of a video's frames, which is cached, and searched with words.

    index = index_video("holiday.mp4", Bundle.load("mini"))
    search([index], "a dog", Bundle.load("mini"))[0].time

One pass samples frames (keyframes of a long video) and stores the time, the colours and the CLIP
embedding of each, which is all that a search needs. For scenes a second pass finds hard cuts frame
by frame, which are stored too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from itertools import pairwise
from pathlib import Path

import numpy as np

from reellama.gguf_tools.atomic_write import stamp
from reellama.gguf_tools.errors import ReellamaError
from reellama.models.array_cache import ArrayCache
from reellama.models.bundle import Bundle
from reellama.models.cache_folders import FRAME_EMBEDDINGS
from reellama.pipeline.long_video.hard_cuts import HardCuts, find_hard_cuts
from reellama.pipeline.progress_callbacks import Progress
from reellama.pipeline.video.clip import VideoInput, opened
from reellama.pipeline.video.frame_sampling import interval_centers
from reellama.pipeline.video.scene_detection import CUT_THRESHOLD, color_quantiles
from reellama.pipeline.video.source import FrameSource, VideoError
from reellama.pipeline.video.video_file import VideoFile

CACHE_FOLDER = FRAME_EMBEDDINGS
INDEX_FORMAT = "moments 3"  # part of all keys, so that a change invalidates old files
# Up to this duration, videos are sampled at this step, for which all frames are decoded.
SHORT_VIDEO_SECONDS, SHORT_VIDEO_STEP = 120.0, 0.5
# Of longer videos keyframes are sampled, with these least and most seconds between two samples.
MIN_STEP, MAX_STEP = 1.0, 20.0
INDEX_SIDE = 256  # pixels on the longest side: a little more than towers use
COLOUR_SIDE = 64
BATCH = 32  # frames per call of the tower
# The longest scene: a lecture, or a camera that stands still, may have no cut for hours.
MAX_SCENE_SECONDS = 60.0
N_ORDINARY_WORDS = 300  # most frequent concepts that serve as ordinary words
COMMON_THINGS = (
    *("man", "woman", "child", "dog", "cat", "bird", "fish", "horse", "car", "bus", "boat"),
    *("plane", "house", "tree", "flower", "street", "field", "beach", "mountain", "sky", "room"),
    *("table", "chair", "book", "cup", "plate", "ball", "star", "square", "circle", "triangle"),
)
# A frame matches words that fit it better than this share of ordinary words.
MIN_FIT_SHARE = 0.95
# Frames closer than this to a better match are left out.
SAME_MATCH_SECONDS = 4.0


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """The sampled frames of a video.

    Attributes:
        duration: seconds.
        times: seconds of the frames, float64 `[n]`.
        colours: `color_quantiles` of the frames, float32 `[n, 51]`.
        embeddings: unit vectors, float32 `[n, d]`, or `[n, 0]` if the tower has no text side.
        cuts: None if hard cuts were not searched for; scenes then begin at sampled frames.
        is_footage: whether the video is real footage, by a bundle that detects that.
    """

    path: Path
    duration: float
    times: np.ndarray
    colours: np.ndarray
    embeddings: np.ndarray
    cuts: HardCuts | None = None
    is_footage: bool = False

    def scenes(self, max_scenes: int, min_seconds: float) -> list[tuple[float, float]]:
        """Divide the video into at most `max_scenes` scenes of at least `min_seconds`.

        The strongest cuts are used. Scenes longer than MAX_SCENE_SECONDS are then cut into equal
        pieces, as long as `max_scenes` allows. Returns start and end of the scenes, in seconds.
        """
        borders = [0.0, max(self.duration, 1e-3)]
        for candidate in self._borders():
            if len(borders) > max_scenes:
                break
            if min(abs(candidate - border) for border in borders) >= min_seconds:
                borders.append(candidate)
        borders.sort()
        return _in_pieces(list(pairwise(borders)), max_scenes, min_seconds)

    def _borders(self) -> Iterator[float]:
        """Seconds at which scenes may begin: hard cuts, then changes of colour between samples.

        Both are sorted by strength, strongest first.
        """
        cuts = self.cuts or HardCuts()
        yield from cuts.times[np.argsort(-cuts.strengths, kind="stable")].tolist()
        change = np.abs(np.diff(self.colours, axis=0)).mean(axis=1)
        for i in np.argsort(-change, kind="stable"):
            start, end = float(self.times[i]), float(self.times[i + 1])
            if change[i] <= CUT_THRESHOLD:
                return
            if np.any((cuts.times > start) & (cuts.times <= end)):
                continue  # the change is this cut
            # A change without a cut is a fade, if it lasts, or else a flash of light.
            if not cuts.covers(start, end) or self._colours_stay(i):
                yield end

    def _colours_stay(self, i: int) -> bool:
        """Whether two samples before the change after sample `i` differ from both after it."""
        before, after = self.colours[max(0, i - 1) : i + 1], self.colours[i + 1 : i + 3]
        return bool(np.abs(before[:, None] - after).mean(axis=2).min() > CUT_THRESHOLD)


@dataclass(frozen=True)
class SearchMatch:
    """A frame that matches a search."""

    path: Path
    time: float  # seconds
    score: float  # share of ordinary words, 0 to 1, that fit the frame less well


def index_video(
    video: VideoInput,
    bundle: Bundle,
    *,
    cuts: bool = False,
    cache: Path | ArrayCache | None = CACHE_FOLDER,
    progress: Progress | None = None,
) -> VideoIndex:
    """Index a video, or read its cached index.

    Args:
        cuts: also find hard cuts, which decodes more frames.
        cache: the folder of indexes, or a cache of it that many videos share; None disables it.
        progress: called with the seconds indexed and their total.

    Raises VideoError for a video that cannot be read.
    """
    report = progress or (lambda done, total: None)
    with opened(video) as source:
        path = source.path
        kept = ArrayCache(cache) if isinstance(cache, Path) else cache
        key = "" if kept is None else _key(path, bundle)
        cached = None if kept is None else _read(kept, key, path)
        index = cached or _build_index(source, path, bundle, report)
        if cuts and index.cuts is None:
            hard_cuts = find_hard_cuts(source, index.times, index.colours, report)
            index = replace(index, cuts=hard_cuts)
    if kept is not None and index is not cached and not bundle.changed:
        kept.write(key, **_arrays(index))
    return index


def search(
    videos: Sequence[VideoIndex], words: str, bundle: Bundle, n: int = 5, min_score: float = 0.0
) -> list[SearchMatch]:
    """The `n` frames that fit `words` best, best first, at least SAME_MATCH_SECONDS apart.

    Frames are sorted by similarity, as scores close to 1 differ too little.

    min_score: MIN_FIT_SHARE leaves out frames that fit many other words as well.

    Raises ReellamaError for a bundle whose tower has no text side.
    """
    if not words.strip():
        raise ReellamaError("search for what? give a few words")
    query, *ordinary = bundle.embed_texts([words, *ordinary_texts(bundle)])
    matches: list[tuple[float, SearchMatch]] = []  # with similarities
    for video in videos:
        similarities = video.embeddings @ query if video.embeddings.size else np.zeros(0)
        scores = _shares(video.embeddings, similarities, np.array(ordinary))
        in_video: list[SearchMatch] = []
        for i in np.argsort(-similarities, kind="stable"):
            time = float(video.times[i])
            is_near = any(abs(match.time - time) < SAME_MATCH_SECONDS for match in in_video)
            if scores[i] >= min_score and not is_near and len(in_video) < n:
                in_video.append(SearchMatch(video.path, time, float(scores[i])))
                matches.append((float(similarities[i]), in_video[-1]))
    return [match for _, match in sorted(matches, key=lambda pair: -pair[0])[:n]]


def ordinary_texts(bundle: Bundle) -> list[str]:
    """Texts of common things, with which the words of a search are compared."""
    words = bundle.vocabulary.words[:N_ORDINARY_WORDS] if bundle.config.concepts else COMMON_THINGS
    return [f"a {word}" for word in words]


def _shares(embeddings: np.ndarray, similarities: np.ndarray, ordinary: np.ndarray) -> np.ndarray:
    """The score of each frame: the share of ordinary words that fit it less well than the query.

    Args:
        embeddings: of the frames, `[n, d]`.
        similarities: of the frames to the query, `[n]`; where they are 0, so are the scores.
        ordinary: embeddings of ordinary words, `[m, d]`.
    """
    if not similarities.size:
        return similarities
    is_less = embeddings @ ordinary.T < similarities[:, None]  # [n, m]
    return is_less.mean(axis=1) * (similarities != 0)


def _in_pieces(
    scenes: Sequence[tuple[float, float]], max_scenes: int, min_seconds: float
) -> list[tuple[float, float]]:
    pieces = [1] * len(scenes)
    waiting = [(start - end, i) for i, (start, end) in enumerate(scenes)]
    heapify(waiting)  # the scene with the longest pieces first
    remaining = max_scenes - len(scenes)
    while remaining > 0 and waiting and -waiting[0][0] > MAX_SCENE_SECONDS:
        _, i = heappop(waiting)
        start, end = scenes[i]
        if (end - start) / (pieces[i] + 1) >= min_seconds:
            pieces[i] += 1
            remaining -= 1
            heappush(waiting, ((start - end) / pieces[i], i))
    return [
        piece
        for (start, end), n in zip(scenes, pieces, strict=True)
        for piece in pairwise([*np.linspace(start, end, n, endpoint=False).tolist(), end])
    ]


def _build_index(source: FrameSource, path: Path, bundle: Bundle, progress: Progress) -> VideoIndex:
    times: list[float] = []
    colours: list[np.ndarray] = []
    embeddings: list[np.ndarray] = []
    waiting: list[np.ndarray] = []
    footage_samples: list[np.ndarray] = []
    for time, rgb in _frames(source):
        times.append(time)
        small = rgb[:: max(1, len(rgb) // COLOUR_SIDE), :: max(1, rgb.shape[1] // COLOUR_SIDE)]
        colours.append(color_quantiles(small))
        waiting.append(rgb)
        if len(times) % BATCH == 1:
            footage_samples.append(rgb)
        if len(waiting) == BATCH:
            embeddings.append(bundle.embed_images(waiting))
            waiting = []
        progress(time, source.duration)
    if not times:
        raise VideoError(f"{path}: no frame can be decoded; the file is cut off or damaged")
    if waiting:
        embeddings.append(bundle.embed_images(waiting))
    progress(source.duration, source.duration)
    return VideoIndex(
        path,
        source.duration,
        np.array(times),
        np.stack(colours).astype(np.float32),
        np.concatenate(embeddings).astype(np.float32),
        is_footage=_is_footage(footage_samples, bundle),
    )


def _is_footage(frames: Sequence[np.ndarray], bundle: Bundle) -> bool:
    if bundle.config.concepts is None:  # trained on a single kind of video
        return False
    return bool(bundle.footage_caveat(bundle.features(frames)))


def _frames(source: FrameSource) -> Iterator[tuple[float, np.ndarray]]:
    last = -1.0
    for frame in source.frames_at(_index_times(source)):
        if frame.time > last:
            with suppress(VideoError):  # a damaged frame is left out
                yield frame.time, frame.rgb(INDEX_SIDE)
                last = frame.time


def _index_times(source: FrameSource) -> list[float]:
    """Seconds at which to sample frames."""
    duration = source.duration
    if duration <= SHORT_VIDEO_SECONDS or not isinstance(source, VideoFile):
        return interval_centers(0.0, duration, max(1, round(duration / SHORT_VIDEO_STEP)))
    times = [0.0]
    for time in [*source.keyframe_times(0.0, duration), duration]:
        while time - times[-1] > MAX_STEP:
            times.append(times[-1] + MAX_STEP)
        if time - times[-1] >= MIN_STEP and time < duration:
            times.append(time)
    return times


def _key(path: Path, bundle: Bundle) -> str:
    """The name of a cache file: a hash of all that an index depends on."""
    key_fields = [INDEX_FORMAT, str(path.resolve()), *stamp(path), bundle.version]
    return hashlib.sha256(json.dumps(key_fields).encode()).hexdigest()


def _arrays(index: VideoIndex) -> dict[str, np.ndarray]:
    """What is kept of an index, by name."""
    names = ("duration", "times", "colours", "embeddings", "is_footage")
    arrays = {name: np.asarray(getattr(index, name)) for name in names}
    if index.cuts is not None:
        arrays |= {f"cut_{name}": array for name, array in vars(index.cuts).items()}
    return arrays


def _read(cache: ArrayCache, key: str, path: Path) -> VideoIndex | None:
    """The index that is kept of a video, if any. One that is damaged is made anew."""
    data = cache.read(key)
    try:
        if data is None:
            return None
        cuts = None
        if "cut_times" in data:
            cuts = HardCuts(data["cut_times"], data["cut_strengths"], data["cut_spans"])
        return VideoIndex(
            path,
            float(data["duration"]),
            data["times"],
            data["colours"],
            data["embeddings"],
            cuts,
            bool(data["is_footage"]),
        )
    except (KeyError, TypeError, ValueError):
        return None
