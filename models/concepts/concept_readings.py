"""Interpret the soft tokens of real footage: concepts, where they are seen, and free tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.models.concepts.vocabulary import ConceptVocabulary
from reellama.models.projector.interpretation import (
    FREE_SLOT,
    SlotReading,
    SoftToken,
    imagenet_readings,
    top_words,
)

CONCEPT = "concept"  # label of a token that names one


@dataclass(frozen=True, eq=False)
class SeenConcept:
    """A concept of a video.

    probability: that a caption of the video says it.
    attention: where it is seen, float32 `[T, cells]` with the sum 1.
    """

    word: str
    probability: float
    attention: np.ndarray


def seen_concepts(
    vocabulary: ConceptVocabulary,
    probabilities: np.ndarray,
    cell_logits: np.ndarray,
    max_concepts: int,
) -> list[SeenConcept]:
    """The likeliest concepts of a video, and where they are seen.

    probabilities `[concepts]`; cell_logits `[T, cells, concepts]`: how much each cell speaks for
    each concept.
    """
    best = np.argsort(-probabilities, kind="stable")[:max_concepts]
    odds = np.exp(cell_logits[..., best] - cell_logits[..., best].max((0, 1)))
    attention = odds / odds.sum((0, 1))
    return [
        SeenConcept(vocabulary.words[n], float(probabilities[n]), attention[..., place])
        for place, n in enumerate(best)
    ]


def concept_readings(
    concepts: Sequence[SeenConcept],
    vocabulary: ConceptVocabulary,
    word_probabilities: np.ndarray,
    attention: np.ndarray,
    *,
    llm: Path,
    top_classes: Sequence[tuple[str, float, Sequence[int]]] = (),
) -> list[SlotReading]:
    """Read the soft tokens of one video, as `reellama.models.projector.interpretation` does.

    word_probabilities, attention: `[free, concepts]` and `[free, T, cells]`, of the free tokens.
    """
    named = [
        SoftToken(number, ((concept.word, concept.probability),), concept.attention)
        for number, concept in enumerate(concepts)
    ]
    words = vocabulary.words
    others = [
        SoftToken(len(named) + number, tuple((words[n], share) for n, share in row), looks)
        for number, (row, looks) in enumerate(
            zip(top_words(word_probabilities), attention, strict=True)
        )
    ]
    with Tokenizer.from_path(llm) as tokenizer:
        return [
            *(SlotReading(CONCEPT, (token,)) for token in named),
            *(SlotReading(FREE_SLOT, (token,)) for token in others),
            *imagenet_readings(top_classes, len(named) + len(others), tokenizer),
        ]
