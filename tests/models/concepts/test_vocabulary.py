"""The concept vocabulary: which words of captions are concepts, and which forms are one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.concepts.vocabulary import (
    ConceptVocabulary,
    build_vocabulary,
    words_of,
)

VIDEOS = [
    ["A dog runs on the grass.", "Two dogs are running."],
    ["The dog ran to a ball", "a dog with a ball"],
    ["A man is running"],
    ["Men run on grass"],
    ["a dog can run"],
    ["people run"],
]


def test_forms_of_a_word_are_one_concept() -> None:
    vocabulary = build_vocabulary(VIDEOS, 10)
    assert vocabulary.number("dogs") == vocabulary.number("dog") is not None
    assert vocabulary.number("men") == vocabulary.number("man") is not None
    run = vocabulary.number("run")
    assert run is not None
    assert [vocabulary.number(form) for form in ("runs", "running", "ran")] == [run] * 3


def test_the_most_frequent_come_first_and_function_words_are_none() -> None:
    vocabulary = build_vocabulary(VIDEOS, 2)
    assert set(vocabulary.words) == {"run", "dog"}
    everything = build_vocabulary(VIDEOS, 100).words
    assert not {"a", "the", "is", "are", "on", "with", "to"} & set(everything)


def test_a_share_is_of_the_captions_of_a_video() -> None:
    vocabulary = build_vocabulary(VIDEOS, 100)
    shares = vocabulary.shares(VIDEOS[0])
    named = {word: float(shares[n]) for n, word in enumerate(vocabulary.words)}
    assert named["dog"] == named["run"] == 1.0
    assert named["grass"] == 0.5
    assert named["man"] == 0.0


@given(st.lists(st.lists(st.text("abdegnrs ", min_size=1), min_size=1, max_size=3), max_size=6))
def test_every_form_leads_to_a_concept_that_is_said(videos: list[list[str]]) -> None:
    vocabulary = build_vocabulary(videos, 50)
    assert len(set(vocabulary.words)) == len(vocabulary)
    for captions in videos:
        shares = vocabulary.shares(captions)
        assert np.all((shares >= 0) & (shares <= 1 + 1e-6))
        said_concepts = {n for caption in captions for n in vocabulary.concepts_in(caption)}
        assert said_concepts == set(np.flatnonzero(shares))
    assert set(vocabulary.forms.values()) <= set(vocabulary.words)


def test_marks_and_capitals_do_not_matter() -> None:
    assert words_of("A man's DOG, two-legged!") == ["a", "man's", "dog", "two", "legged"]


def test_a_vocabulary_is_the_same_after_saving(tmp_path: Path) -> None:
    vocabulary = build_vocabulary(VIDEOS, 10)
    vocabulary.save(tmp_path / "concepts.json")
    assert ConceptVocabulary.load(tmp_path / "concepts.json") == vocabulary


@pytest.mark.parametrize("text", ["", "[]", '{"words": 1, "forms": {}}', '{"words": ["a"]}'])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "concepts.json"
    path.write_text(text)
    with pytest.raises(ReellamaError, match="not a concept vocabulary"):
        ConceptVocabulary.load(path)
