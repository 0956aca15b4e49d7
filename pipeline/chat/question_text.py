"""Normalize questions, and find which of several videos a question names.

Soft tokens have no names, and a small model would answer about the first video. So for "the second
video" or "the last clip" it gets that video alone, and the question is about "the video".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

AnyVideo = TypeVar("AnyVideo")
_POSITIONS = {"first": 0, "second": 1, "third": 2, "fourth": 3, "fifth": 4, "last": -1}
_POSITIONS |= {"1st": 0, "2nd": 1, "3rd": 2, "4th": 3, "5th": 4}
_MEANT = re.compile(rf"\b({'|'.join(_POSITIONS)}) (?=(?:video|clip|film|movie)\b)", re.IGNORECASE)


def normalized_question(question: str) -> str:
    """A question in lower case, with single spaces, and without punctuation at its ends.

    >>> normalized_question("How long  is it?")
    'how long is it'
    """
    return " ".join(question.lower().strip(" ?.!").split())


def videos_in_question(question: str, videos: Sequence[AnyVideo]) -> tuple[list[AnyVideo], str]:
    """The videos that `question` is about, and the question without their number.

    All of them, and the question as it is, where it names none, several, or one that is not there.
    """
    named = {_POSITIONS[word.lower()] for word in _MEANT.findall(question)}
    if len(videos) < 2 or len(named) != 1 or max(named) >= len(videos):
        return list(videos), question
    return [videos[named.pop()]], _MEANT.sub("", question)
