"""Decide how a question about videos is answered: from their files, by a rule, or by the model.

The command line, the server and timelines share this module, so that their answers agree.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from reellama.models.open_bundle import VideoBundle
from reellama.pipeline.chat.conversation import Video
from reellama.pipeline.chat.file_answers import answer_from_files, names_video
from reellama.pipeline.chat.footage_limits import CANNOT_TELL, asks_beyond_footage
from reellama.pipeline.chat.question_language import OTHER_LANGUAGE, is_in, names_of
from reellama.pipeline.chat.question_text import normalized_question, videos_in_question
from reellama.pipeline.chat.subtitle_answers import (
    NOT_HEARD,
    answer_from_subtitles,
    asks_to_listen,
)
from reellama.pipeline.video.clip import Clip

_IT = r"(?:it|(?:the|this) (?:video|clip|film|movie|footage|scene|picture|photo|image))"
_HERE = rf"(?: (?:here|there|in {_IT}))?"
_DESCRIPTION = re.compile(
    rf"what(?: is|'s) (?:happening|going on){_HERE}|what happens{_HERE}|what goes on{_HERE}"
    rf"|what (?:do|can) you see{_HERE}|what (?:does|do) {_IT} show|what(?: is|'s) {_IT} about"
    rf"|what(?: is|'s) (?:seen|shown){_HERE}|describe (?:what happens{_HERE}|{_IT})"
)
_SUBJECT = re.compile(
    rf"(?:who|what)(?: is|'s) the main (?:subject|character|thing|object)(?:(?: of| in) {_IT})?"
)
# Words after the subject of a description: an answer that is to be the subject alone ends there.
AFTER_SUBJECT = tuple(
    f" {word} "
    for word in (
        *("is", "are", "was", "were", "has", "have", "in", "on", "at", "with", "who", "that"),
        *("sitting", "standing", "wearing", "holding", "playing", "talking", "walking", "riding"),
    )
)


class AnswerPlan(NamedTuple):
    """How a question is answered.

    Attributes:
        videos: the videos that the question is about.
        answer: the answer, if it is known without the model; None means that the model is asked.
        request: what the model is asked in place of the question, about `videos` and without the
            earlier turns, or None.
        stop: texts at which the model's answer ends.
        is_seen: whether the answer is based on what the bundle sees of the videos, not on their
            files or on a rule.
    """

    videos: Sequence[Video]
    answer: str | None = None
    request: str | None = None
    stop: tuple[str, ...] = ()
    is_seen: bool = True

    @property
    def footage(self) -> Video | None:
        """The first video of real footage that the answer is based on, whose caveat applies."""
        return next((v for v in self.videos if self.is_seen and v.footage_caveat), None)

    def part_of(self, description: str) -> str:
        """The part of a description before the first stop text."""
        ends = [end for text in self.stop if (end := description.find(text)) >= 0]
        return description[: min(ends, default=None)]


def plan_answer(
    question: str,
    videos: Sequence[Video],
    bundle: VideoBundle,
    languages: Sequence[str] | None = None,
) -> AnswerPlan:
    """Plan the answer to `question` about `videos`.

    Files answer questions about their duration, size, rate and sound, and subtitles those about
    speech. A vision GGUF is spared only questions that name the video, as "it" may be what is
    shown. Of real footage, questions that the bundle cannot answer get a fixed answer, and so do
    questions in a language that it does not know. Questions about what happens in footage, and
    about its subject, are answered from the bundle's description, as a small model would answer
    each wording differently.

    languages: those of the answering model, if they differ from the bundle's.
    """
    meant, plain = videos_in_question(question, videos)
    clips = [video.clip for video in meant]
    if (answer := _answer_from_clips(plain, clips, sees=bundle.reads_text)) is not None:
        return AnswerPlan(meant, answer, is_seen=False)
    is_footage = bool(meant) and all(video.footage_caveat for video in meant)
    if is_footage and asks_beyond_footage(plain):
        return AnswerPlan(meant, CANNOT_TELL.format(bundle.name))
    spoken = bundle.languages if languages is None else languages
    if spoken and not is_in(question, spoken):
        other_language = OTHER_LANGUAGE.format(bundle.name, names_of(spoken))
        return AnswerPlan(meant, other_language, is_seen=False)
    if is_footage and len(meant) == 1:
        normalized = normalized_question(plain)
        if _SUBJECT.fullmatch(normalized):
            return AnswerPlan(meant, request=bundle.describe, stop=AFTER_SUBJECT)
        if _DESCRIPTION.fullmatch(normalized):
            return AnswerPlan(meant, request=bundle.describe)
    return AnswerPlan(meant)


def _answer_from_clips(question: str, clips: Sequence[Clip], *, sees: bool) -> str | None:
    """The answer from files and subtitles, or None if they have none.

    sees: whether the model reads text in pictures, as a vision GGUF does. Such a model is asked if
    "it" may be what is shown, and if words may be written in a picture.
    """
    names_file = not sees or names_video(question)
    to_listen = asks_to_listen(question)
    answer = answer_from_files(question, clips) if names_file else None
    if answer is None and len(clips) == 1 and (names_file or to_listen):
        answer = answer_from_subtitles(question, clips[0].subtitles)
    if answer is None and to_listen and not any(clip.subtitles for clip in clips):
        may_speak = any(clip.duration for clip in clips) if sees else bool(clips)
        answer = NOT_HEARD if may_speak else None
    return answer
