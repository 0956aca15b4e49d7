"""An index of a video's frames: made once, kept, and searched with words.

    index = index_video("holiday.mp4", Bundle.load("mini"))
    search([index], "a dog", Bundle.load("mini"))[0].time

One pass samples frames (keyframes, where the video is long) and keeps the time, the colours and the
CLIP embedding of each. Words are matched with these alone; for scenes a second pass finds hard cuts
frame by frame, and they are kept too.
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
from zipfile import BadZipFile

import numpy as np

from reellama.gguf_tools.atomic_write import replacing, stamp
from reellama.gguf_tools.errors import ReellamaError
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
INDEX_FORMAT = "moments 3"  # part of every key: a change makes old files unknown
# A video this short is sampled every half second; every frame of it is decoded for that.
SHORT_VIDEO_SECONDS, SHORT_VIDEO_STEP = 120.0, 0.5
# In a longer one keyframes do, at most one in `MIN_STEP` and at least one in `MAX_STEP` seconds.
MIN_STEP, MAX_STEP = 1.0, 20.0
INDEX_SIDE = 256  # pixels on the longest side: a little more than towers take
COLOUR_SIDE = 64
BATCH = 32  # frames a call of the tower
# A scene is no longer: a lecture, or a camera that stands still, may have no cut for hours.
MAX_SCENE_SECONDS = 60.0
N_ORDINARY_WORDS = 300  # commonest concepts that are ordinary words
COMMON_THINGS = (
    *("man", "woman", "child", "dog", "cat", "bird", "fish", "horse", "car", "bus", "boat"),
    *("plane", "house", "tree", "flower", "street", "field", "beach", "mountain", "sky", "room"),
    *("table", "chair", "book", "cup", "plate", "ball", "star", "square", "circle", "triangle"),
)
# A moment fits words that fit it better than this share of ordinary words does.
MIN_FIT_SHARE = 0.95
# A moment this close to a better one is the same match.
SAME_MATCH_SECONDS = 4.0


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """The sampled frames of a video.

    times: seconds, float64 [n]; colours: float32 [n, 51] as `color_quantiles` has them;
    embeddings: float32 [n, d], of length 1, or [n, 0] where the tower has no text side.
    cuts: None where they were not searched for: then scenes begin at sampled frames.
    is_footage: whether it is real footage, by a bundle that tells that from drawn clips.
    """

    path: Path
    duration: float
    times: np.ndarray
    colours: np.ndarray
    embeddings: np.ndarray
    cuts: HardCuts | None = None
    is_footage: bool = False

    def scenes(self, max_scenes: int, min_seconds: float) -> list[tuple[float, float]]:
        """Start and end of at most `max_scenes` scenes, each `min_seconds` or longer; all of them
        together are the video. The strongest cuts are kept. Scenes longer than
        `MAX_SCENE_SECONDS` are then cut in equal pieces, those with the longest pieces first."""
        borders = [0.0, max(self.duration, 1e-3)]
        for at in self._borders():
            if len(borders) > max_scenes:
                break
            if min(abs(at - border) for border in borders) >= min_seconds:
                borders.append(at)
        borders.sort()
        return _in_pieces(list(pairwise(borders)), max_scenes, min_seconds)

    def _borders(self) -> Iterator[float]:
        """Seconds at which scenes may begin: hard cuts, then changes of colour from sample to
        sample, each with the strongest first."""
        cuts = self.cuts or HardCuts()
        yield from cuts.times[np.argsort(-cuts.strengths, kind="stable")].tolist()
        change = np.abs(np.diff(self.colours, axis=0)).mean(axis=1)
        for i in np.argsort(-change, kind="stable"):
            start, end = float(self.times[i]), float(self.times[i + 1])
            if change[i] <= CUT_THRESHOLD:
                return
            if np.any((cuts.times > start) & (cuts.times <= end)):
                continue  # it is this cut
            # Without a cut it is a fade, if it lasts: a flash of light does not.
            if not cuts.covers(start, end) or self._colours_stay(i):
                yield end

    def _colours_stay(self, i: int) -> bool:
        """Whether two samples before the change after sample `i` differ from both after it."""
        before, after = self.colours[max(0, i - 1) : i + 1], self.colours[i + 1 : i + 3]
        return bool(np.abs(before[:, None] - after).mean(axis=2).min() > CUT_THRESHOLD)


@dataclass(frozen=True)
class SearchMatch:
    """A moment that fits some words: its video, seconds, and the share, from 0 to 1, of ordinary
    words that fit it less well."""

    path: Path
    time: float
    score: float


def index_video(
    video: VideoInput,
    bundle: Bundle,
    *,
    cuts: bool = False,
    cache: Path | None = CACHE_FOLDER,
    progress: Progress | None = None,
) -> VideoIndex:
    """Index a video, or read the index that is kept of it.

    cuts: find hard cuts as well, which decodes more frames.
    cache: the folder of indexes; None keeps nothing. progress: seconds indexed, of how many.
    Raises VideoError for what is no video.
    """
    report = progress or (lambda done, total: None)
    with opened(video) as source:
        path = source.path
        cache_path = None if cache is None else cache / f"{_key(path, bundle)}.npz"
        cached = None if cache_path is None else _read(cache_path, path)
        index = cached or _build_index(source, path, bundle, report)
        if cuts and index.cuts is None:
            hard_cuts = find_hard_cuts(source, index.times, index.colours, report)
            index = replace(index, cuts=hard_cuts)
    if cache_path is not None and index is not cached and not bundle.changed:
        with suppress(OSError, ReellamaError):  # the answer is as good, only not kept
            cache_path.parent.mkdir(parents=True, exist_ok=True)
            _write(cache_path, index)
    return index


def search(
    videos: Sequence[VideoIndex], words: str, bundle: Bundle, n: int = 5, min_score: float = 0.0
) -> list[SearchMatch]:
    """The `n` moments that fit `words` best, best first; neighbours count once.

    The order is that of how well they fit, which says more than a score near its end, 1.
    min_score: MIN_FIT_SHARE leaves out what fits no better than many words would.
    Raises ReellamaError where the bundle's tower cannot read.
    """
    if not words.strip():
        raise ReellamaError("search for what? give a few words")
    words_embedding, *ordinary = bundle.embed_texts([words, *ordinary_texts(bundle)])
    matches: list[tuple[float, SearchMatch]] = []  # how well it fits, and the moment
    for video in videos:
        fits = video.embeddings @ words_embedding if video.embeddings.size else np.zeros(0)
        scores = _shares(video.embeddings, fits, np.array(ordinary))
        own: list[SearchMatch] = []
        for i in np.argsort(-fits, kind="stable"):
            time = float(video.times[i])
            is_near = any(abs(match.time - time) < SAME_MATCH_SECONDS for match in own)
            if scores[i] >= min_score and not is_near and len(own) < n:
                own.append(SearchMatch(video.path, time, float(scores[i])))
                matches.append((float(fits[i]), own[-1]))
    return [match for _, match in sorted(matches, key=lambda one: -one[0])[:n]]


def ordinary_texts(bundle: Bundle) -> list[str]:
    """Texts of common things, which a search is compared with."""
    words = bundle.vocabulary.words[:N_ORDINARY_WORDS] if bundle.config.concepts else COMMON_THINGS
    return [f"a {word}" for word in words]


def _shares(embeddings: np.ndarray, fits: np.ndarray, ordinary: np.ndarray) -> np.ndarray:
    """The score of each moment: the share of the rows `ordinary [m, d]` that fit it less well than
    the searched words do (`fits [n]`). Words that say nothing of it, with a fit of 0, score 0."""
    if not fits.size:
        return fits
    return (embeddings @ ordinary.T < fits[:, None]).mean(axis=1) * (fits != 0)


def _in_pieces(
    scenes: Sequence[tuple[float, float]], max_scenes: int, min_seconds: float
) -> list[tuple[float, float]]:
    pieces = [1] * len(scenes)
    waiting = [(start - end, i) for i, (start, end) in enumerate(scenes)]
    heapify(waiting)  # the scene with the longest pieces first
    left = max_scenes - len(scenes)
    while left > 0 and waiting and -waiting[0][0] > MAX_SCENE_SECONDS:
        _, i = heappop(waiting)
        start, end = scenes[i]
        if (end - start) / (pieces[i] + 1) >= min_seconds:
            pieces[i] += 1
            left -= 1
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
    if bundle.config.concepts is None:  # it knows one kind of video, and no other
        return False
    return bool(bundle.footage_caveat(bundle.features(frames)))


def _frames(source: FrameSource) -> Iterator[tuple[float, np.ndarray]]:
    last = -1.0
    for frame in source.frames_at(_index_times(source)):
        if frame.time > last:
            with suppress(VideoError):  # damaged just here: the rest tells what there is
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
    """What an index depends on, as a name for a file."""
    key_fields = [INDEX_FORMAT, str(path.resolve()), *stamp(path), bundle.version]
    return hashlib.sha256(json.dumps(key_fields).encode()).hexdigest()


def _write(cache_path: Path, index: VideoIndex) -> None:
    names = ("duration", "times", "colours", "embeddings", "is_footage")
    arrays = {name: getattr(index, name) for name in names}
    if index.cuts is not None:
        arrays |= {f"cut_{name}": array for name, array in vars(index.cuts).items()}
    with replacing(cache_path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def _read(cache_path: Path, path: Path) -> VideoIndex | None:
    try:
        with np.load(cache_path, allow_pickle=False) as data:
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
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None  # not there, or damaged: it is written again
