"""Is there a dog? Asked of a clip with one and of one without; a pair is right if both answers are.

Captions answer by words (`concept_words`), only where they are sure: yes where most of several say
so, no where none of many says so and hardly one leaves it open. Who always says yes has no pair
right, and who guesses a quarter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.chat.video_chat import VideoChat
from reellama.pipeline.evaluation.bootstrap import BootstrapEstimate, bootstrap, exactly, mean
from reellama.pipeline.evaluation.calibration import expected_calibration_error, reliability
from reellama.pipeline.evaluation.captioned_clips import CaptionedClip, CaptionedSplit
from reellama.pipeline.evaluation.footage_report import CHANCE, MODEL, FootageScore
from reellama.pipeline.evaluation.items import EvalItem
from reellama.pipeline.evaluation.runner import (
    AnsweredItem,
    ModelReply,
    QuestionProgress,
    ask_of_clips,
)
from reellama.pipeline.evaluation.tasks.concept_words import THINGS, Thing, said_by

# The answer is yes where this share of a clip's captions say so, and at least this many.
YES_SHARE, YES_CAPTIONS = 0.6, 2
# The answer is no where a clip has at least this many captions, none of them says yes, and at most
# this share leave it open.
NO_CAPTIONS, OPEN_SHARE = 4, 0.1
CHOICES = ("yes", "no")


@dataclass(frozen=True)
class Pair:
    """The same question of two clips: the answers are yes and no."""

    yes: EvalItem
    no: EvalItem


def pairs(split: CaptionedSplit) -> list[Pair]:
    """At most `split.max_clips` pairs, as many of each thing as of the others while clips last."""
    rng = split.rng()
    by_thing = [_pairs_of(thing, split.clips, rng) for thing in THINGS]
    rounds = zip_longest(*(by_thing[i] for i in rng.permutation(len(by_thing))))
    return [pair for each in rounds for pair in each if pair is not None][: split.max_clips]


def _pairs_of(thing: Thing, clips: Sequence[CaptionedClip], rng: np.random.Generator) -> list[Pair]:
    """Pairs about `thing`; no clip comes twice."""
    having: list[CaptionedClip] = []
    lacking: list[CaptionedClip] = []
    for number in rng.permutation(len(clips)):
        clip = clips[number]
        share, left_open = said_by(thing, clip.captions)
        if share >= YES_SHARE and share * len(clip.captions) >= YES_CAPTIONS:
            having.append(clip)
        elif not share and left_open <= OPEN_SHARE and len(clip.captions) >= NO_CAPTIONS:
            lacking.append(clip)
    return [
        Pair(_item(thing, yes, "yes"), _item(thing, no, "no"))
        for yes, no in zip(having, lacking, strict=False)
    ]


def _item(thing: Thing, clip: CaptionedClip, answer: str) -> EvalItem:
    question = f"Is there {thing.name}?"
    return EvalItem("yes/no pairs", question, answer, CHOICES, clip.video, listed=False)


def run(
    video_chat: VideoChat,
    split: CaptionedSplit,
    controls: Sequence[str],
    progress: QuestionProgress,
) -> FootageScore:
    """Ask, and count. Raises ReellamaError when the captions allow no pair."""
    asked = pairs(split)
    if not asked:
        raise ReellamaError(
            "yes-no: the captions say surely yes of no clip, or surely no; clips of "
            f"{NO_CAPTIONS} captions or more are needed"
        )
    # All clips with what is asked for, then all without: "another clip" is one of the same answer,
    # which mostly is about another thing.
    items = [pair.yes for pair in asked] + [pair.no for pair in asked]
    answered, unreadable = ask_of_clips(video_chat, items, controls, progress)
    return score(asked, answered, unreadable)


def score(
    asked: Sequence[Pair], answered: Sequence[AnsweredItem], notes: Sequence[str] = ()
) -> FootageScore:
    """The figures of pairs both of whose clips could be read."""
    by_item = {each.item: each for each in answered}
    both = [
        (by_item[pair.yes], by_item[pair.no])
        for pair in asked
        if pair.yes in by_item and pair.no in by_item
    ]
    rows = {MODEL: _figures([(yes.reply, no.reply) for yes, no in both])}
    for control in both[0][0].controls if both else ():
        rows[control] = _figures([(y.controls[control], n.controls[control]) for y, n in both])
    rows[CHANCE] = {"both right": exactly(0.25), "right": exactly(0.5)}
    p_yes = [each.reply.probabilities[0] for pair in both for each in pair]
    bins = reliability(p_yes, [True, False] * len(both))
    return FootageScore(
        "yes/no questions", f"{len(both)} pairs", rows, notes, [a for p in both for a in p], bins
    )


def _figures(replies: Sequence[tuple[ModelReply, ModelReply]]) -> dict[str, BootstrapEstimate]:
    """The figures by the words that were said, and by p(yes) against p(no)."""
    by_text = _columns([(yes.generated_right, no.generated_right) for yes, no in replies])
    by_probability = _columns([(yes.right, no.right) for yes, no in replies])
    p_yes = _columns([(yes.probabilities[0], no.probabilities[0]) for yes, no in replies])
    truth = np.tile([True, False], (len(replies), 1))

    def calibration_error(drawn: np.ndarray) -> float:
        return expected_calibration_error(p_yes[drawn].ravel(), truth[drawn].ravel())

    return {
        "both right": mean(by_text.min(axis=1)),
        "right": mean(by_text.mean(1)),
        "both likelier": mean(by_probability.min(axis=1)),
        "calibration error": bootstrap(calibration_error, len(replies)),
    }


def _columns(pairs_of: Sequence[tuple[float, float]]) -> np.ndarray:
    """float64 `[pairs, 2]`: of the clip with the thing, and of the one without."""
    return np.array(pairs_of, np.float64).reshape(-1, 2)
