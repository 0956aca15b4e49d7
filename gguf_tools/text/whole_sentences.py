"""A text that a limit of tokens cut off, without the sentence that it broke off in."""

from __future__ import annotations

import re

# A full stop, or what else ends a sentence, with the quotes and brackets that it closes; those of
# Chinese and Japanese, which no space follows.
_END = re.compile("[.!?\u2026][\"'\u201d\u2019)\\]]*(?=\\s|$)|[\u3002\uff01\uff1f]")


def whole_sentences(text: str) -> str:
    """A text up to the end of its last whole sentence; all of it and three dots where it has none.

    >>> whole_sentences("A dog runs 3.5 km. It then")
    'A dog runs 3.5 km.'
    >>> whole_sentences("A dog that runs")
    'A dog that runs...'
    """
    ends = [match.end() for match in _END.finditer(text)]
    return text[: ends[-1]] if ends else f"{text.rstrip()}..."
