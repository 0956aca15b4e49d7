"""CIDEr-D (Vedantam et al., 2015): how well a caption agrees with human captions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from reellama.models.concepts.vocabulary import Captions, words_of

MAX_NGRAM = 4  # words
LENGTH_DEVIATION = 6.0  # words; sigma of CIDEr-D's penalty on a caption's length
END = "."  # counts as a word; otherwise captions that break off would score as well as whole ones

NGram = tuple[str, ...]


class CiderReward:
    """CIDEr-D of captions; `videos` are all human captions, for the rarity of n-grams."""

    def __init__(self, videos: Sequence[Captions]) -> None:
        self._log_videos = math.log(max(1, len(videos)))
        self._videos_with: Counter[NGram] = Counter()
        for captions in videos:
            grams = {gram for caption in captions for gram in _ngrams(_words(caption))}
            self._videos_with.update(grams)

    def scores(self, captions: Captions, references: Captions) -> list[float]:
        """The score, 0 to 10, of each caption of one video against its human `references`."""
        compared = [(self._vectors(words), len(words)) for words in map(_words, references)]
        return [self._score(_words(caption), compared) for caption in captions]

    def _score(
        self, words: list[str], references: Sequence[tuple[list[dict[NGram, float]], int]]
    ) -> float:
        vectors, total = self._vectors(words), 0.0
        for reference_vectors, length in references:
            penalty = math.exp(-((len(words) - length) ** 2) / (2 * LENGTH_DEVIATION**2))
            pairs = zip(vectors, reference_vectors, strict=True)
            total += penalty * sum(_clipped_cosine(vector, other) for vector, other in pairs)
        return 10.0 * total / MAX_NGRAM / max(1, len(references))

    def _vectors(self, words: list[str]) -> list[dict[NGram, float]]:
        """TF-IDF weights of n-grams, for each length from 1 to MAX_NGRAM."""
        vectors: list[dict[NGram, float]] = [{} for _ in range(MAX_NGRAM)]
        for gram, count in _ngrams(words).items():
            rarity = self._log_videos - math.log(max(1, self._videos_with[gram]))
            vectors[len(gram) - 1][gram] = count * rarity
        return vectors


def _words(caption: str) -> list[str]:
    return [*words_of(caption), *([END] if caption.rstrip().endswith(END) else [])]


def _ngrams(words: Sequence[str]) -> Counter[NGram]:
    return Counter(
        tuple(words[start : start + n])
        for n in range(1, MAX_NGRAM + 1)
        for start in range(len(words) - n + 1)
    )


def _clipped_cosine(vector: dict[NGram, float], reference: dict[NGram, float]) -> float:
    """The cosine, in which n-grams do not count more often than in the reference (CIDEr-D)."""
    lengths = [math.sqrt(sum(x * x for x in values.values())) for values in (vector, reference)]
    product = sum(min(value, reference[gram]) * reference[gram]
                  for gram, value in vector.items() if gram in reference)  # fmt: skip
    return product / (lengths[0] * lengths[1]) if all(lengths) else 0.0
