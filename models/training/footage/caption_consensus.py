"""Which captions of a video say what the others say: those are learned.

A caption's n-grams are weighed by how rare they are among all videos, as in CIDEr (Vedantam et al.,
2015), so that two captions are alike if both say what few videos have.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from reellama.models.concepts.vocabulary import Captions, words_of

MAX_NGRAM = 3  # words


def ngrams(caption: str) -> Counter[tuple[str, ...]]:
    """A caption's n-grams, from one word to MAX_NGRAM, with their counts."""
    words = words_of(caption)
    return Counter(
        tuple(words[start : start + n])
        for n in range(1, MAX_NGRAM + 1)
        for start in range(len(words) - n + 1)
    )


class CaptionConsensus:
    """Ranks the captions of a video; `videos` say which n-grams are rare."""

    def __init__(self, videos: Sequence[Captions]) -> None:
        self._videos = max(1, len(videos))
        self._with: Counter[tuple[str, ...]] = Counter()
        for captions in videos:
            self._with.update({gram for caption in captions for gram in ngrams(caption)})

    def ranked(self, captions: Captions) -> list[str]:
        """The captions, those most like the others first."""
        rows = [self._row(caption) for caption in captions]
        scores = [
            sum(_cosine(row, other) for place, other in enumerate(rows) if place != own)
            for own, row in enumerate(rows)
        ]
        order = sorted(range(len(captions)), key=lambda place: -scores[place])
        return [captions[place] for place in order]

    def _row(self, caption: str) -> dict[tuple[str, ...], float]:
        return {
            gram: count * math.log(self._videos / max(1, self._with[gram]))
            for gram, count in ngrams(caption).items()
        }


def _cosine(a: dict[tuple[str, ...], float], b: dict[tuple[str, ...], float]) -> float:
    if len(b) < len(a):
        a, b = b, a
    lengths = [math.sqrt(sum(value * value for value in row.values())) for row in (a, b)]
    product = sum(value * b[gram] for gram, value in a.items() if gram in b)
    return product / (lengths[0] * lengths[1]) if all(lengths) else 0.0
