"""Descriptions of real footage against people's captions, beside captions that nobody wrote for it.

The baselines take a caption from other clips: the same for all, that of the clip that looks most
alike, and the consensus of 60 such clips (Devlin et al., 2015).
"""

from __future__ import annotations

from collections.abc import Sequence

from reellama.pipeline.chat.video_chat import VideoChat
from reellama.pipeline.evaluation import caption_metrics
from reellama.pipeline.evaluation.bootstrap import BootstrapEstimate, mean
from reellama.pipeline.evaluation.captioned_clips import CaptionedClip, CaptionedSplit
from reellama.pipeline.evaluation.footage_report import MODEL, FootageScore
from reellama.pipeline.evaluation.items import EvalItem
from reellama.pipeline.evaluation.neighbour_captions import (
    CaptionSimilarity,
    imagenet_trunk,
    neighbour_captions,
    trunk_features,
)
from reellama.pipeline.evaluation.runner import QuestionProgress, ask_of_clips

NEIGHBOURS = {"nearest neighbour": 1, "consensus of 60 neighbours": 60}
SAME = "same sentence for all"


def run(
    video_chat: VideoChat,
    split: CaptionedSplit,
    controls: Sequence[str],
    progress: QuestionProgress,
) -> FootageScore:
    """Ask for descriptions, and score them and the baselines' captions on the same clips."""
    caption_metrics.check_installed()
    clips = split.sample()
    items = [
        EvalItem("captions", "", "", (), clip.video, references=clip.captions) for clip in clips
    ]
    answered, notes = ask_of_clips(video_chat, items, controls, progress)
    read = {each.item.video for each in answered}
    clips = [clip for clip in clips if clip.video in read]
    texts_by_way = {MODEL: [each.reply.generated_text for each in answered]}
    for control in answered[0].controls:
        texts_by_way[control] = [each.controls[control].generated_text for each in answered]
    if split.train:
        texts_by_way |= baseline_captions(clips, split.train, progress)
    else:
        notes.append("no baselines: --train names captioned clips that they may know")
    rest = [clip.captions for clip in split.clips if clip not in set(clips)]
    rows = {
        way: caption_figures(sentences, [clip.captions for clip in clips], rest)
        for way, sentences in texts_by_way.items()
    }
    return FootageScore("captions", f"{len(clips)} clips", rows, notes, answered)


def caption_figures(
    said: Sequence[str], references: Sequence[Sequence[str]], others: Sequence[Sequence[str]]
) -> dict[str, BootstrapEstimate]:
    """CIDEr, weighed by the references of the whole split, and the words of a description."""
    return {
        "CIDEr": mean(caption_metrics.cider_of_each(said, references, others)),
        "words": mean([len(caption_metrics.caption_words(text)) for text in said]),
    }


def baseline_captions(
    clips: Sequence[CaptionedClip], train: Sequence[CaptionedClip], progress: QuestionProgress
) -> dict[str, list[str]]:
    """Captions of `train` for `clips`, by the baselines' names."""
    similarity = CaptionSimilarity([clip.captions for clip in train])
    same = similarity.consensus([caption for clip in train for caption in clip.captions])
    tower = imagenet_trunk()
    train_features = trunk_features(train, tower, progress=progress)
    clip_features = trunk_features(clips, tower, progress=progress)
    captions = {SAME: [same] * len(clips)}
    for name, k in NEIGHBOURS.items():
        captions[name] = neighbour_captions(clip_features, train, train_features, similarity, k)
    return captions
