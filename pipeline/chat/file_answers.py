"""Answer questions about a video's duration, size, frame rate and sound from its file.

A model sees a few frames and would guess. A few plain English forms of questions are recognized;
all others go to the model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from reellama.pipeline.chat.question_text import normalized_question

if TYPE_CHECKING:
    from reellama.pipeline.video.clip import Clip
    from reellama.pipeline.video.source import FileFacts

_VIDEO = r"(?:the|this) (?:video|clip|film|movie|footage|recording|file)"
_NAMED = re.compile(rf"\b(?:{_VIDEO}|the subtitles)\b")
_IT = rf"(?:it|{_VIDEO})"
_OF_IT = rf"(?:(?: of| in| does| is)? {_IT}(?: have| in)?)?"
_HEARD = r"(?:sound|audio)(?: track)?"
_ITS = rf"(?:(?:the|its) |{_IT}'s )"  # "what is its resolution", "what is the video's resolution"
_IS = r"(?: is|'s| are|'re)"
_LENGTH = r"(?:duration|length|running time|run time|runtime)"
_SIZE = r"(?:resolution|dimensions|frame size|width and height|size in pixels|pixel size)"
_RATE = r"(?:frame ?rate|fps|frames (?:per|a) second)"


def _duration(clip: Clip, _: FileFacts | None) -> str | None:
    if clip.path.is_dir():
        return "is a folder of pictures, which are taken as a second apart"
    return f"is {clip.duration:.1f} seconds long" if clip.duration else "is a still picture"


def _size(clip: Clip, facts: FileFacts | None) -> str | None:
    if facts is None:  # pictures, whose frames were scaled down
        return None
    short, long = sorted((facts.width, facts.height))
    # The clip is upright, while the file may be stored on its side.
    return f"is {long} by {short} pixels" if clip.is_wide else f"is {short} by {long} pixels"


def _rate(clip: Clip, facts: FileFacts | None) -> str | None:
    if facts is None:
        return None if clip.duration else "is a still picture"
    return f"has {facts.frame_rate:.4g} frames a second"


def _sound(_: Clip, facts: FileFacts | None) -> str | None:
    heard = facts is not None and facts.has_sound
    return "has sound, which is not listened to" if heard else "has no sound"


# Pattern of a question -> function that answers it from a clip and its facts (None for pictures),
# or returns None.
_QUESTIONS: dict[str, Callable[[Clip, FileFacts | None], str | None]] = {
    rf"how long (?:is {_IT}|does {_IT} (?:last|take|run))": _duration,
    rf"how many (?:seconds|minutes) (?:is {_IT}|long is {_IT}|does {_IT} (?:last|have))": _duration,
    rf"(?:how many (?:seconds|minutes) are there)(?: in {_IT})?": _duration,
    rf"what{_IS} {_ITS}{_LENGTH}{_OF_IT}|(?:{_ITS})?{_LENGTH}{_OF_IT}": _duration,
    rf"what(?:{_IS} )?(?: ?{_ITS})?(?: ?){_SIZE}{_OF_IT}|(?:{_ITS})?{_SIZE}{_OF_IT}": _size,
    rf"how many pixels (?:is|has|are in|does) {_IT}(?: have)?": _size,
    rf"how (?:wide|high|tall|large|big) is {_VIDEO}(?: in pixels)?": _size,
    rf"what(?:{_IS} )?(?: ?{_ITS})?(?: ?){_RATE}{_OF_IT}|(?:{_ITS})?{_RATE}{_OF_IT}": _rate,
    rf"(?:at )?how many {_RATE}{_OF_IT}(?: there)?(?: in {_IT})?": _rate,
    rf"(?:at )?(?:what|which) {_RATE} (?:does|is|was) {_IT}(?: have| run at| run| play)?": _rate,
    rf"(?:does {_IT} have|has {_IT}|is there)(?: got)?(?: any| a| an)? {_HEARD}{_OF_IT}": _sound,
    rf"(?:is|was) {_IT} (?:silent|mute|muted|without (?:any )?{_HEARD}|with {_HEARD})": _sound,
}


def asks_of_file(question: str) -> bool:
    """Whether files can answer a question."""
    return _form(question) is not None


def names_video(question: str) -> bool:
    """Whether a question names the video, its file or its subtitles, and does not say "it" alone.

    >>> names_video("How long is the video?"), names_video("How long is it?")
    (True, False)
    """
    return _NAMED.search(normalized_question(question)) is not None


def _form(question: str) -> Callable[[Clip, FileFacts | None], str | None] | None:
    normalized = normalized_question(question)
    return next((say for form, say in _QUESTIONS.items() if re.fullmatch(form, normalized)), None)


def answer_from_files(question: str, clips: Sequence[Clip]) -> str | None:
    """The answer from the files of `clips`, or None if they do not answer `question`."""
    say = _form(question)
    if say is None or not clips:
        return None
    statements = [say(clip, clip.facts) for clip in clips]
    if None in statements:
        return None
    if len(clips) == 1:
        return f"The file {statements[0]}."
    return " ".join(
        f"{clip.path.name} {statement}." for clip, statement in zip(clips, statements, strict=True)
    )
