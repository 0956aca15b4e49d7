"""Frames are found by the concepts that a text says."""

from __future__ import annotations

import numpy as np

from reellama.models.concepts.concept_embeddings import image_embeddings, text_embeddings
from reellama.models.concepts.vocabulary import ConceptVocabulary

VOCABULARY = ConceptVocabulary(("man", "dog", "ball"), {"dogs": "dog"})
BASE = np.array([0.5, 0.1, 0.05])


def test_a_frame_is_found_by_what_it_makes_likelier() -> None:
    frames = image_embeddings(
        np.array([[0.6, 0.05, 0.01], [0.5, 0.4, 0.02], [0.4, 0.1, 0.3]]), BASE
    )
    wanted = text_embeddings(VOCABULARY, ["A man", "two dogs", "the ball"])
    assert (frames @ wanted.T).argmax(0).tolist() == [0, 1, 2]


def test_rows_have_length_one_but_for_texts_without_a_concept() -> None:
    probabilities = np.random.default_rng(0).random((4, 3))
    np.testing.assert_allclose(
        np.linalg.norm(image_embeddings(probabilities, BASE), axis=1), 1, 1e-5
    )
    lengths = np.linalg.norm(text_embeddings(VOCABULARY, ["a dog and a ball", "nothing"]), axis=1)
    np.testing.assert_allclose(lengths, [1, 0], atol=1e-6)


def test_certain_probabilities_are_finite() -> None:
    assert np.isfinite(image_embeddings(np.array([[0.0, 1.0, 0.5]]), BASE)).all()
