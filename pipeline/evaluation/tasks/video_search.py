"""Clips found by what a person said of them: by one caption each, among all the clips.

It searches as `reellama timeline --ask` does: frames and words are embedded by the bundle's tower,
and a video is as good as its best frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.open_bundle import search_bundle
from reellama.pipeline.chat.video_chat import VideoChat
from reellama.pipeline.evaluation.bootstrap import BootstrapEstimate, exactly, mean, median
from reellama.pipeline.evaluation.captioned_clips import CaptionedSplit
from reellama.pipeline.evaluation.controls import OTHER
from reellama.pipeline.evaluation.footage_report import CHANCE, MODEL, FootageScore
from reellama.pipeline.evaluation.runner import QuestionProgress
from reellama.pipeline.long_video.video_index import VideoIndex, index_video
from reellama.pipeline.video.source import VideoError

TEXT_BATCH = 64  # captions a call of the tower


def run(
    video_chat: VideoChat,
    split: CaptionedSplit,
    controls: Sequence[str],
    progress: QuestionProgress,
) -> FootageScore:
    """Search, and rank. Raises ReellamaError where the tower has no text side."""
    bundle = search_bundle(video_chat.bundle)
    rng = split.rng()
    indices: list[VideoIndex] = []
    captions: list[str] = []
    notes: list[str] = []
    for clip in split.sample():
        try:
            indices.append(index_video(clip.video, bundle))
        except VideoError as error:
            notes.append(str(error))
            continue
        captions.append(clip.captions[int(rng.integers(len(clip.captions)))])
        progress(len(indices))
    if not indices:
        raise ReellamaError(notes[0] if notes else "there is nothing to search")
    wanted = np.concatenate(
        [
            bundle.embed_texts(captions[start : start + TEXT_BATCH])
            for start in range(0, len(captions), TEXT_BATCH)
        ]
    )
    ranks = caption_ranks(indices, wanted)
    n = len(indices)
    rows = {MODEL: rank_figures(ranks)}
    if OTHER in controls:  # each caption as the query for the clip after its own
        rows[OTHER] = rank_figures(caption_ranks(indices, np.roll(wanted, 1, axis=0)))
    rows[CHANCE] = {f"R@{k}": exactly(min(1.0, k / n)) for k in (1, 10)}
    rows[CHANCE]["median rank"] = exactly((n + 1) / 2)
    return FootageScore("search", f"{n} clips by a caption each", rows, notes)


def caption_ranks(indices: Sequence[VideoIndex], wanted: np.ndarray) -> np.ndarray:
    """Row i of `wanted [clips, d]` looks for clip i: its rank among all, int [clips], 1 is best.

    Of clips that fit as well, half count as better: a tower for which all are alike is at chance.
    """
    if not all(index.embeddings.size for index in indices):
        raise ReellamaError("search: the bundle's tower has no text side")
    scores = np.stack([(index.embeddings @ wanted.T).max(0) for index in indices])  # [clip, query]
    own = np.diag(scores)
    better, equal = (scores > own).sum(0), (scores == own).sum(0) - 1
    return 1 + better + equal // 2


def rank_figures(ranks: np.ndarray) -> dict[str, BootstrapEstimate]:
    """Recall among the first 1 and 10, and the median rank."""
    figures = {f"R@{k}": mean(ranks <= k) for k in (1, 10)}
    return figures | {"median rank": median(ranks)}
