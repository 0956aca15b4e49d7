"""Sets of captioned videos, read from files, with the tower's features of the videos."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.training import distributed
from reellama.models.training.captions.clip_sources import (
    ReadVideo,
    read_caption_rows,
    short_hash,
)
from reellama.models.training.feature_cache import FeatureCache
from reellama.models.training.trainer import batch_rows, format_minutes
from reellama.models.vision.encoder import Tower

Turn = tuple[str, str]  # a question and its answer
MAX_CAPTION_WORDS = 22  # longer captions are several sentences, or lists


@dataclass(frozen=True)
class CaptionedVideo:
    """A video or a still with its captions, and with other questions and their answers."""

    path: Path
    captions: tuple[str, ...]
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class FootageSet:
    """The videos of one file, with their features.

    Attributes:
        name: folder and name of the file.
        videos: in the order of the cache's clips.
        share: of this set's videos in a training batch; 0 for a validation set.
        cache: features; the videos that could not be read are not `usable`.
    """

    name: str
    videos: Sequence[CaptionedVideo]
    share: float
    cache: FeatureCache

    def size(self, batch: int) -> int:
        """Number of this set's videos in a batch, at least 1."""
        return max(1, round(self.share * batch))

    def captioned(self, rows: Sequence[int]) -> list[int]:
        """Those of `rows` whose videos have captions, not only questions."""
        return [row for row in rows if self.videos[row].captions]

    def rows(self, step: int, batch: int, seed: int) -> list[int]:
        """This process's videos in the batch of a step; an epoch has each video once."""
        drawn = batch_rows(step, self.size(batch), len(self.cache.usable), seed)
        drawn = drawn[distributed.rank() :: distributed.world_size()] or drawn[:1]
        return [self.cache.usable[row] for row in drawn]


def read_captioned_videos(path: Path) -> list[CaptionedVideo]:
    """The videos of a JSONL or CSV file, sorted by path; a video may have several rows.

    Raises ReellamaError with file and line for a row that cannot be used, and for a file without
    captions.
    """
    captions: dict[Path, list[str]] = {}
    turns: dict[Path, list[Turn]] = {}
    for row in read_caption_rows(path, describe=""):
        captions.setdefault(row.video, [])
        turns.setdefault(row.video, [])
        if row.question:
            turns[row.video].append((row.question, row.answer))
        else:
            captions[row.video].append(row.answer)
    if not any(captions.values()):
        raise ReellamaError(f"{path}: no captions; concepts are learned from captions")
    return [CaptionedVideo(v, tuple(captions[v]), tuple(turns[v])) for v in sorted(captions)]


def as_sentence(caption: str) -> str:
    """A caption with a capital letter and a full stop, without quotation marks and double
    spaces."""
    text = " ".join(caption.replace('"', "").split()).strip(" .")
    return f"{text[:1].upper()}{text[1:]}."


def sentences(video: CaptionedVideo) -> list[str]:
    """A video's captions as sentences, without overlong ones unless all are."""
    short = [text for text in video.captions if len(text.split()) <= MAX_CAPTION_WORDS]
    return [as_sentence(text) for text in short or video.captions]


def load_footage_set(
    path: Path,
    tower: Tower,
    work: Path,
    *,
    read_video: ReadVideo,
    frames: int,
    share: float,
    report: Callable[[str], None],
) -> FootageSet:
    """Read a file of captioned videos, and compute the features that `work` does not have yet.

    Args:
        path: a JSONL or CSV file.
        tower: encodes the frames.
        work: folder of the feature caches.
        read_video: reads the frames of a video.
        frames: frames of a video.
        share: of the set's videos in a training batch.
        report: receives lines of progress.
    """
    videos = read_captioned_videos(path)
    stats = [(str(v.path), v.path.stat().st_size, v.path.stat().st_mtime) for v in videos]
    weights = [(name, float(t.float().sum())) for name, t in tower.model.visual.named_parameters()]
    key = short_hash(f"{stats} {frames} {tower.layers} {tower.size} {tower.dtype} {weights[:4]}")
    cache = FeatureCache(work / f"{path.parent.name}-{path.stem}-{key}", len(videos))
    started = time.perf_counter()

    def read(number: int) -> tuple[Sequence[np.ndarray], np.ndarray]:
        return read_video(videos[number].path, frames)

    def progress(done: int, total: int) -> None:
        left = (time.perf_counter() - started) / done * (total - done)
        report(f"features: {path} {done}/{total}, {format_minutes(left)} left")

    if distributed.rank() == 0:
        cache.build(tower, read, progress, report)
    distributed.barrier()
    cache.open()
    n_captions = sum(len(video.captions) for video in videos)
    n_questions = sum(len(video.turns) for video in videos)
    n_left_out = len(videos) - len(cache.usable)
    report(
        f"{path}: {len(videos)} videos, {n_captions} captions, {n_questions} questions"
        + (f"; {n_left_out} videos left out, for they could not be read" if n_left_out else "")
    )
    return FootageSet(f"{path.parent.name}/{path.stem}", videos, share, cache)
