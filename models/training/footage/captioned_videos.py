"""Captioned videos from files, and what the tower sees in them, computed once."""

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
    """A video or a still, what people said of it, and what else was asked and answered."""

    path: Path
    captions: tuple[str, ...]
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class FootageSet:
    """The videos of one file, with their features.

    Attributes:
        share: of a training batch that this set's videos take; 0 for a validation set.
        cache: clip `number` is `videos[number]`; some may not have been readable.
    """

    name: str
    videos: Sequence[CaptionedVideo]
    share: float
    cache: FeatureCache

    def size(self, batch: int) -> int:
        """How many videos of this set go into a batch: at least one."""
        return max(1, round(self.share * batch))

    def captioned(self, rows: Sequence[int]) -> list[int]:
        """The `rows` of videos that have captions, and not only questions."""
        return [row for row in rows if self.videos[row].captions]

    def rows(self, step: int, batch: int, seed: int) -> list[int]:
        """This process's videos in the batch of a step: each video once an epoch."""
        drawn = batch_rows(step, self.size(batch), len(self.cache.usable), seed)
        drawn = drawn[distributed.rank() :: distributed.world_size()] or drawn[:1]
        return [self.cache.usable[row] for row in drawn]


def read_captioned_videos(path: Path) -> list[CaptionedVideo]:
    """The videos of a JSONL or CSV file, sorted by path; several rows may be of one.

    Raises ReellamaError with file and line for a row that cannot be used, and for no caption.
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
    """A capital letter first, one full stop last, no quotation marks or doubled spaces."""
    text = " ".join(caption.replace('"', "").split()).strip(" .")
    return f"{text[:1].upper()}{text[1:]}."


def sentences(video: CaptionedVideo) -> list[str]:
    """A video's captions as sentences to learn; too long ones only where there is no other."""
    kept = [text for text in video.captions if len(text.split()) <= MAX_CAPTION_WORDS]
    return [as_sentence(text) for text in kept or video.captions]


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
    """Read a file, and compute the features that `work` does not have yet."""
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
    out = len(videos) - len(cache.usable)
    report(
        f"{path}: {len(videos)} videos, {n_captions} captions, {n_questions} questions"
        + (f"; {out} videos left out, for they could not be read" if out else "")
    )
    return FootageSet(f"{path.parent.name}/{path.stem}", videos, share, cache)
