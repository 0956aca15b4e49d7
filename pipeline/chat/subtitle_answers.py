"""Answer questions about speech from subtitles, and format subtitles for a prompt.

A model sees a few frames and hears nothing, and a small model overlooks subtitles in its prompt. A
few plain English forms of questions are recognized; all others go to the model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reellama.pipeline.chat.question_text import normalized_question
from reellama.pipeline.video.read_options import VideoReadOptions
from reellama.pipeline.video.timestamps import format_time

if TYPE_CHECKING:  # to classify a question needs no PyAV
    from reellama.pipeline.video.subtitles import Subtitle

NOT_HEARD = "I cannot tell: sound is not listened to, and there are no subtitles that are read."
MAX_LINES = 8  # of an answer
NEAR_SECONDS = 1.0  # seconds around a time that was asked about
# Characters of subtitles that stand in a prompt for each position of the context: a quarter of a
# context at about four characters a token.
CHARACTERS_PER_POSITION = 1.0

_TIME = r"(?P<time>\d+(?::\d\d){0,2}(?:\.\d+)?)(?: ?(?:s|sec|seconds))?"
_AT = rf"(?: (?:at|around|about|near)(?: second)? {_TIME})?"
_PERSON = r"the (?:person|people|man|woman|speaker|narrator|video|subtitles?)"
_WHO = rf"(?:they|he|she|it|people|{_PERSON})"
_PLACE = r"(?: in (?:it|(?:the|this) (?:video|clip|film)))?"
_FORMS = (
    rf"what(?: is|'s| was| gets)? (?:being )?said{_PLACE}{_AT}{_PLACE}",
    rf"what (?:do|does|did) {_WHO} (?:say|talk about){_PLACE}{_AT}{_PLACE}",
    rf"what (?:is|are|'s) {_WHO} (?:saying|talking about){_PLACE}{_AT}{_PLACE}",
    rf"(?:what are|show|read|list)(?: me)? the subtitles{_PLACE}{_AT}{_PLACE}",
)
_SAYS = rf"(?:is|was|do|does|did)(?: {_WHO})? (?:say )?"
_WHEN = rf"when {_SAYS}(?P<q>[\"'])(?P<words>.+)(?P=q)(?: said)?"
# Curved quotation marks, which phones write.
_QUOTES = {0x201C: '"', 0x201D: '"', 0x2018: "'", 0x2019: "'"}


def between(lines: Sequence[Subtitle], read_options: VideoReadOptions) -> tuple[Subtitle, ...]:
    """The lines in the part of a video that `read_options` selects."""
    start = read_options.start or 0.0
    end = math.inf if read_options.end is None else read_options.end
    return tuple(line for line in lines if line.end > start and line.start < end)


def answer_from_subtitles(question: str, lines: Sequence[Subtitle]) -> str | None:
    """The answer from `lines`, or None if `question` does not ask for them or there are none."""
    match = _match(question)
    if match is None or not lines:
        return None
    parts = match.groupdict()
    if "words" in parts:
        return _when(parts["words"], lines)
    return _at(_seconds(parts["time"]), lines) if parts["time"] else _all(lines)


def asks_to_listen(question: str) -> bool:
    """Whether only sound or subtitles have the answer; a video may "say" something in pictures."""
    match = _match(question)
    return match is not None and not re.search(r"\b(?:it|video|subtitles?)\b", match[0])


def asks_of_subtitles(question: str) -> bool:
    """Whether subtitles can answer a question, if the video has any."""
    return _match(question) is not None


def _match(question: str) -> re.Match[str] | None:
    normalized = normalized_question(question.translate(_QUOTES))
    matches = (re.fullmatch(form, normalized) for form in (_WHEN, *_FORMS))
    return next(filter(None, matches), None)


def as_text(lines: Sequence[Subtitle], n_ctx: int) -> str:
    """Subtitles as text for a prompt.

    If all lines are too long for a context of `n_ctx` positions, every second, fourth, ... is used.
    """
    characters_left = int(n_ctx * CHARACTERS_PER_POSITION)
    texts = [f"[{format_time(line.start)}] {line.text}" for line in lines]
    while texts and sum(map(len, texts)) > characters_left:
        texts = texts[::2] if len(texts) > 1 else []
    return "\n".join(["Subtitles:", *texts, ""]) if texts else ""


def _seconds(time: str) -> float:
    seconds = 0.0
    for part in time.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds


def _at(time: float, lines: Sequence[Subtitle]) -> str:
    here = [line for line in lines if line.start - NEAR_SECONDS <= time < line.end + NEAR_SECONDS]
    exact = [line for line in here if line.start <= time < line.end]
    if here:
        texts = " ".join(f'"{line.text}"' for line in exact or here)
        return f"At {format_time((exact or here)[0].start)} the subtitles say: {texts}"
    nearest = min(lines, key=lambda line: abs(line.start - time))
    return (
        f"The subtitles say nothing at {format_time(time)}; the nearest line is at "
        f'{format_time(nearest.start)}: "{nearest.text}"'
    )


def _all(lines: Sequence[Subtitle]) -> str:
    step = -(-len(lines) // MAX_LINES)
    texts = [f'{format_time(line.start)} "{line.text}"' for line in lines[::step]]
    rest = f" These are {len(texts)} of {len(lines)} lines." if step > 1 else ""
    return f"The subtitles say: {', '.join(texts)}.{rest}"


def _when(words: str, lines: Sequence[Subtitle]) -> str:
    at = [line for line in lines if words in line.text.lower().translate(_QUOTES)]
    if not at:
        return f'The subtitles never say "{words}".'
    times = ", ".join(format_time(line.start) for line in at[:MAX_LINES])
    return f'The subtitles say "{words}" at {times}.'
