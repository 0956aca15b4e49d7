"""Questions that the file itself answers: how long, how large, how many frames a second, sound.

A model sees a few frames and would guess. A few plain English forms are known; all else goes to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reellama.pipeline.video.clip import Clip
    from reellama.pipeline.video.source import FileFacts

_IT = r"(?:it|(?:the|this) (?:video|clip|film|movie|footage|recording|file))"
_OF_IT = rf"(?:(?: of| in| does| is)? {_IT}(?: have| in)?)?"
_HEARD = r"(?:sound|audio)(?: track)?"


def _duration(clip: Clip, _: FileFacts) -> str:
    return f"is {clip.duration:.1f} seconds long"


def _size(clip: Clip, facts: FileFacts) -> str:
    short, long = sorted((facts.width, facts.height))
    # The clip is upright, while the file may be stored on its side.
    return f"is {long} by {short} pixels" if clip.is_wide else f"is {short} by {long} pixels"


def _rate(_: Clip, facts: FileFacts) -> str:
    return f"has {facts.frame_rate:.4g} frames a second"


def _sound(_: Clip, facts: FileFacts) -> str:
    return "has sound, which is not listened to" if facts.has_sound else "has no sound"


_QUESTIONS: dict[str, Callable[[Clip, FileFacts], str]] = {
    rf"how long (?:is {_IT}|does {_IT} (?:last|take|run))": _duration,
    rf"how many (?:seconds|minutes) (?:is {_IT}|long is {_IT}|does {_IT} (?:last|have))": _duration,
    rf"what(?: is|'s) the (?:duration|length|running time){_OF_IT}": _duration,
    rf"what(?: is|'s| are)? (?:the )?(?:resolution|dimensions|frame size){_OF_IT}": _size,
    rf"what(?: is|'s)? (?:the )?frame ?rate{_OF_IT}": _rate,
    rf"how many (?:frames (?:per|a) second|fps){_OF_IT}": _rate,
    rf"(?:does {_IT} have|has {_IT}|is there)(?: got)?(?: any| a)? {_HEARD}{_OF_IT}": _sound,
}


def asks_of_file(question: str) -> bool:
    """Whether a question is one that files answer."""
    return _form(question) is not None


def _form(question: str) -> Callable[[Clip, FileFacts], str] | None:
    asked = " ".join(question.lower().strip(" ?.!").split())
    return next((say for form, say in _QUESTIONS.items() if re.fullmatch(form, asked)), None)


def answer_from_files(question: str, clips: Sequence[Clip]) -> str | None:
    """What the files of `clips` say to `question`, or None where they do not."""
    say = _form(question)
    if say is None or not clips or any(clip.facts is None for clip in clips):
        return None
    said = [say(clip, clip.facts) for clip in clips if clip.facts is not None]
    if len(clips) == 1:
        return f"The file {said[0]}."
    return " ".join(f"{clip.path.name} {text}." for clip, text in zip(clips, said, strict=True))
