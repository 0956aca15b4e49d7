"""Search real footage by the concepts that a text says.

A frame's row says how much likelier it makes each concept than videos are in the mean, as a log
odds ratio; a text's row says which concepts it names. Their product ranks frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reellama.models.concepts.vocabulary import ConceptVocabulary

LEAST = 1e-4  # probabilities are kept so far from 0 and 1


def image_rows(probabilities: np.ndarray, base_rates: np.ndarray) -> np.ndarray:
    """Concept probabilities of frames `[frames, concepts]` -> unit rows, float32, alike.

    base_rates `[concepts]`: how often the captions of a video say each concept.
    """
    odds = _log_odds(probabilities) - _log_odds(base_rates)
    return _unit(odds.astype(np.float32))


def text_rows(vocabulary: ConceptVocabulary, texts: Sequence[str]) -> np.ndarray:
    """Unit rows float32 `[texts, concepts]`; zeros for a text that says no concept."""
    rows = np.zeros((len(texts), len(vocabulary)), np.float32)
    for row, text in zip(rows, texts, strict=True):
        row[sorted(vocabulary.said(text))] = 1
    return _unit(rows)


def _log_odds(probabilities: np.ndarray) -> np.ndarray:
    kept = np.clip(probabilities, LEAST, 1 - LEAST)
    return np.log(kept) - np.log1p(-kept)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
