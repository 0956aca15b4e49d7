"""Interpret the soft tokens of real footage: concepts with their places, then free tokens."""

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

CONCEPT = "concept"  # label of a soft token that names a concept


@dataclass(frozen=True, eq=False)
class SeenConcept:
    """A concept of a video.

    Attributes:
        word: the concept's base form.
        probability: of a caption of the video saying the word.
        attention: where the concept is seen, float32 `[T, cells]` with the sum 1.
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
    """The likeliest concepts of a video, the likeliest first.

    Args:
        probabilities: of the concepts in the video, `[concepts]`.
        cell_logits: of the concepts in each cell, `[T, cells, concepts]`.
        max_concepts: how many to return.
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
    """Readings of the soft tokens of one video, as `projector.interpretation.interpret` returns.

    Args:
        concepts: those of the named tokens.
        vocabulary: the words of the free tokens.
        word_probabilities, attention: of the free tokens, `[free, concepts]` and
            `[free, T, cells]`.
        llm: the GGUF whose tokenizer has the ImageNet labels.
        top_classes: name, share and token ids of each ImageNet label that follows.
    """
    named = [
        SoftToken(number, ((concept.word, concept.probability),), concept.attention)
        for number, concept in enumerate(concepts)
    ]
    words = vocabulary.words
    free = [
        SoftToken(len(named) + number, tuple((words[n], share) for n, share in row), token_map)
        for number, (row, token_map) in enumerate(
            zip(top_words(word_probabilities), attention, strict=True)
        )
    ]
    with Tokenizer.from_path(llm) as tokenizer:
        return [
            *(SlotReading(CONCEPT, (token,)) for token in named),
            *(SlotReading(FREE_SLOT, (token,)) for token in free),
            *imagenet_readings(top_classes, len(named) + len(free), tokenizer),
        ]
