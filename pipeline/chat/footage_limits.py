"""Recognize questions about real footage that a bundle's soft tokens cannot answer.

Soft tokens of footage represent what is seen, not how it moves. Asked about motion, an LLM answers
by the words of the question alone. A few plain English forms of such questions are recognized; all
others go to the LLM.
"""

from __future__ import annotations

import re

from reellama.pipeline.chat.question_text import normalized_question

CANNOT_TELL = (
    "I cannot tell: of real footage {0} knows what is seen, but not how it moves or how many there "
    "are."
)

_MOVE = r"(?:move|moves|moving|moved|movement|motion)"
_PLACE = r"(?: in (?:it|here|there|(?:the|this) (?:video|clip|film|scene)))?"
_SEEN = r"(?: (?:are|is) (?:there|seen|shown|visible)| (?:do|can) you see)"
_WAY = r"(?:which way|where|in (?:which|what) direction|how|how fast)"
_STILL = r"(?:(?:stay|stand|remain)s? still|standing still|still)"
_FORMS = tuple(
    re.compile(form + _PLACE)
    for form in (
        # Does anything move? Are the people moving? Is there any movement? Is everything still?
        rf"(?:does|do|did|is|are|was|were|can) (?:[\w']+ ){{1,5}}{_MOVE}(?: at all| around)?",
        rf"(?:does|do|did) (?:[\w']+ ){{1,4}}{_STILL}",
        rf"(?:is|are|was|were) (?:anything|everything|nothing|it|the [\w']+) {_STILL}",
        # What moves? How many things are moving? Which way does it go?
        rf"(?:what|who|which [\w']+|how many(?: [\w']+){{0,2}}) (?:is |are |was |were )?{_MOVE}",
        rf"{_WAY} (?:does|do|is|are|did) (?:[\w']+ ){{1,5}}(?:{_MOVE}|go|going)",
        # Does the camera pan? What does the camera do? How many things are there?
        r"(?:does|is|did|was) the camera(?: [\w']+){1,4}",
        r"(?:what|how) (?:does|is|did) the camera (?:do|doing|move|moving)",
        rf"how many (?:(?:thing|object|item)s|(?:[\w']+ ?){{1,3}}{_SEEN})",
    )
)


def asks_beyond_footage(question: str) -> bool:
    """Whether a question is about motion, the camera or a number of things."""
    normalized = normalized_question(question)
    return any(form.fullmatch(normalized) for form in _FORMS)
