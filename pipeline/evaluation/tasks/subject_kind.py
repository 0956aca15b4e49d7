"""What kind of subject is a clip about: a person, an animal, a vehicle, a place or a thing?

The kind of a caption is that of its first known word (`concept_words`), and so is the kind of an
answer. Clips whose captions do not agree are left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.chat.video_chat import VideoChat
from reellama.pipeline.evaluation.bootstrap import BootstrapEstimate, bootstrap, mean
from reellama.pipeline.evaluation.captioned_clips import CaptionedClip, CaptionedSplit
from reellama.pipeline.evaluation.footage_report import MODEL, FootageScore
from reellama.pipeline.evaluation.items import EvalItem
from reellama.pipeline.evaluation.runner import QuestionProgress, ask_of_clips
from reellama.pipeline.evaluation.tasks.concept_words import SubjectKind, kind_of

QUESTION = "What is the main subject of the video?"
MIN_SAYING_SHARE = 0.5  # share of the captions that must say a kind at all
MIN_AGREEING_SHARE = 0.6  # share of these that must say the same one
MIN_CLIPS = 5  # of a kind, to count in the mean of the kinds


def kind_of_clip(clip: CaptionedClip) -> SubjectKind | None:
    """The kind that most captions say; None where they do not agree."""
    kinds = [kind for caption in clip.captions if (kind := kind_of(caption))]
    if len(kinds) < MIN_SAYING_SHARE * len(clip.captions):
        return None
    [(kind, n)] = Counter(kinds).most_common(1)
    return kind if n >= MIN_AGREEING_SHARE * len(kinds) else None


def run(
    video_chat: VideoChat,
    split: CaptionedSplit,
    controls: Sequence[str],
    progress: QuestionProgress,
) -> FootageScore:
    """Ask, and compare kinds. Raises ReellamaError when no clip's captions agree."""
    agreed = [clip for clip in split.clips if kind_of_clip(clip)]
    if not agreed:
        raise ReellamaError("subject-kind: of no clip the captions agree on the main subject")
    items = [
        EvalItem("subject kind", QUESTION, kind, (), clip.video)
        for clip in split.sample(agreed)
        if (kind := kind_of_clip(clip))
    ]
    answered, notes = ask_of_clips(video_chat, items, controls, progress)
    truth = [each.item.answer for each in answered]
    kinds_by_way = {MODEL: [kind_of(each.reply.generated_text) for each in answered]}
    for control in answered[0].controls:
        kinds_by_way[control] = [
            kind_of(each.controls[control].generated_text) for each in answered
        ]
    [(usual, _)] = Counter(truth).most_common(1)
    rows = {way: kind_figures(kinds, truth) for way, kinds in kinds_by_way.items()}
    rows[f'"{usual}" for all'] = kind_figures([usual] * len(truth), truth)
    out = len(split.clips) - len(agreed)
    notes.append(f"left out, of {len(split.clips)} clips the captions of {out} do not agree")
    counts = ", ".join(f"{n} {kind}" for kind, n in Counter(truth).most_common())
    return FootageScore("main subject", f"{len(truth)} clips ({counts})", rows, notes, answered)


def kind_figures(
    answered_kinds: Sequence[str | None], truth: Sequence[str]
) -> dict[str, BootstrapEstimate]:
    """The share of right kinds, and the mean of the shares of each kind, be it usual or not.

    A kind of fewer than `MIN_CLIPS` clips is not in the mean.
    """
    right = np.array([a == b for a, b in zip(answered_kinds, truth, strict=True)], float)
    kinds = np.array(truth)
    common = [kind for kind, n in Counter(truth).items() if n >= MIN_CLIPS]

    def mean_of_kinds(drawn: np.ndarray) -> float:
        columns = [right[drawn][kinds[drawn] == kind] for kind in common]
        shares = [column.mean() for column in columns if len(column)]
        return float(np.mean(shares)) if shares else math.nan

    return {"right": mean(right), "mean of the kinds": bootstrap(mean_of_kinds, len(right))}
