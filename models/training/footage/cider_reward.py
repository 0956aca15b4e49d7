"""CIDEr-D (Vedantam et al., 2015): how well a caption agrees with those that people gave."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from reellama.models.concepts.vocabulary import Captions, words_of

MAX_NGRAM = 4  # words
LENGTH_DEVIATION = 6.0  # words; CIDEr-D's sigma of how much longer or shorter a caption may be
END = "."  # counts as a last word, or captions that break off would score as well as whole ones

NGram = tuple[str, ...]


class CiderReward:
    """CIDEr-D, 0 to 10, of a caption; `videos` say how rare n-grams are."""

    def __init__(self, videos: Sequence[Captions]) -> None:
        self._log_videos = math.log(max(1, len(videos)))
        self._with: Counter[NGram] = Counter()
        for captions in videos:
            self._with.update({gram for caption in captions for gram in _ngrams(_words(caption))})

    def scores(self, captions: Captions, references: Captions) -> list[float]:
        """The score of each of a model's captions of one video against people's `references`."""
        compared = [(self._rows(words), len(words)) for words in map(_words, references)]
        return [self._score(_words(caption), compared) for caption in captions]

    def _score(
        self, words: list[str], references: Sequence[tuple[list[dict[NGram, float]], int]]
    ) -> float:
        rows, total = self._rows(words), 0.0
        for other_rows, length in references:
            penalty = math.exp(-((len(words) - length) ** 2) / (2 * LENGTH_DEVIATION**2))
            pairs = zip(rows, other_rows, strict=True)
            total += penalty * sum(_clipped_cosine(row, other) for row, other in pairs)
        return 10.0 * total / MAX_NGRAM / max(1, len(references))

    def _rows(self, words: list[str]) -> list[dict[NGram, float]]:
        """For each length of n-grams, how often each is there, weighed by how rare it is."""
        rows: list[dict[NGram, float]] = [{} for _ in range(MAX_NGRAM)]
        for gram, count in _ngrams(words).items():
            rarity = self._log_videos - math.log(max(1, self._with[gram]))
            rows[len(gram) - 1][gram] = count * rarity
        return rows


def _words(caption: str) -> list[str]:
    return [*words_of(caption), *([END] if caption.rstrip().endswith(END) else [])]


def _ngrams(words: Sequence[str]) -> Counter[NGram]:
    return Counter(
        tuple(words[start : start + n])
        for n in range(1, MAX_NGRAM + 1)
        for start in range(len(words) - n + 1)
    )


def _clipped_cosine(row: dict[NGram, float], reference: dict[NGram, float]) -> float:
    """A word that is repeated more often than in the reference does not count more (CIDEr-D)."""
    lengths = [math.sqrt(sum(value * value for value in one.values())) for one in (row, reference)]
    product = sum(min(value, reference[gram]) * reference[gram]
                  for gram, value in row.items() if gram in reference)  # fmt: skip
    return product / (lengths[0] * lengths[1]) if all(lengths) else 0.0
