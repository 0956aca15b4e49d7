"""Embeddings of frames and texts with one dimension for each concept, to search real footage.

A frame's embedding holds the log odds ratio of each concept: how much likelier the concept is in
the frame than in videos on average. A text's embedding marks the concepts that the text names. The
dot product of the two ranks frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reellama.models.concepts.vocabulary import ConceptVocabulary

MARGIN = 1e-4  # probabilities are kept this far from 0 and 1


def image_embeddings(probabilities: np.ndarray, base_rates: np.ndarray) -> np.ndarray:
    """L2-normalized embeddings of frames, float32 `[frames, concepts]`.

    Args:
        probabilities: of each concept in each frame, `[frames, concepts]`.
        base_rates: mean share of a video's captions that say each concept, `[concepts]`.
    """
    odds = _log_odds(probabilities) - _log_odds(base_rates)
    return _normalized(odds.astype(np.float32))


def text_embeddings(vocabulary: ConceptVocabulary, texts: Sequence[str]) -> np.ndarray:
    """L2-normalized embeddings, float32 `[texts, concepts]`; zeros where a text says no concept."""
    rows = np.zeros((len(texts), len(vocabulary)), np.float32)
    for row, text in zip(rows, texts, strict=True):
        row[sorted(vocabulary.concepts_in(text))] = 1
    return _normalized(rows)


def _log_odds(probabilities: np.ndarray) -> np.ndarray:
    clipped = np.clip(probabilities, MARGIN, 1 - MARGIN)
    return np.log(clipped) - np.log1p(-clipped)


def _normalized(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
