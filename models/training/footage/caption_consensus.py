"""Rank the captions of a video by their similarity to its other captions; training uses the best.

A caption's n-grams are weighted by their rarity among all videos, as in CIDEr (Vedantam et al.,
2015). So two captions are similar if both have n-grams that few videos have.
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
    """Ranks the captions of a video; `videos` are all captions, for the rarity of n-grams."""

    def __init__(self, videos: Sequence[Captions]) -> None:
        self._n_videos = max(1, len(videos))
        self._videos_with: Counter[tuple[str, ...]] = Counter()
        for captions in videos:
            self._videos_with.update({gram for caption in captions for gram in ngrams(caption)})

    def ranked(self, captions: Captions) -> list[str]:
        """The captions, the most similar to the others first."""
        vectors = [self._vector(caption) for caption in captions]
        scores = [
            sum(_cosine(vector, other) for j, other in enumerate(vectors) if j != i)
            for i, vector in enumerate(vectors)
        ]
        order = sorted(range(len(captions)), key=lambda i: -scores[i])
        return [captions[i] for i in order]

    def _vector(self, caption: str) -> dict[tuple[str, ...], float]:
        """TF-IDF weights of a caption's n-grams."""
        return {
            gram: count * math.log(self._n_videos / max(1, self._videos_with[gram]))
            for gram, count in ngrams(caption).items()
        }


def _cosine(a: dict[tuple[str, ...], float], b: dict[tuple[str, ...], float]) -> float:
    if len(b) < len(a):
        a, b = b, a
    lengths = [math.sqrt(sum(value * value for value in vector.values())) for vector in (a, b)]
    product = sum(value * b[gram] for gram, value in a.items() if gram in b)
    return product / (lengths[0] * lengths[1]) if all(lengths) else 0.0
