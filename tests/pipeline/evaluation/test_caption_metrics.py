"""Scores of captions: as pycocoevalcap counts them, without its Java tokenizer."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reellama.pipeline.evaluation.caption_metrics import caption_words, cider_of_each
from tests.pipeline.evaluation.conftest import CAPTIONS

REFERENCES = [captions.split(",") for captions in CAPTIONS.values()]
# As people write: marks, apostrophes, hyphens, numbers as digits and as words.
TYPED = [
    "A man's dog, in a T-shirt, isn't running.",
    "Two girls and a boy don't look; they're 3 years old!",
    'The woman says: "It\'s a well-known song."',
    "someone\N{RIGHT SINGLE QUOTATION MARK}s hands - close up - are washed...",
    "A black-and-white cat , sleeping on the sofa .",
    "an old man who can't hear (he wears headphones)",
]


def test_a_caption_that_is_its_only_reference_scores_ten() -> None:
    said = [texts[0] for texts in REFERENCES]
    assert cider_of_each(said, [[text] for text in said]) == pytest.approx([10.0] * len(said))


@given(st.permutations(range(len(REFERENCES))))
def test_the_order_of_the_clips_does_not_matter(order: list[int]) -> None:
    said = [texts[1] for texts in REFERENCES]
    scores = cider_of_each(said, REFERENCES)
    mixed = cider_of_each([said[i] for i in order], [REFERENCES[i] for i in order])
    assert mixed == pytest.approx(scores[order])


def test_words_are_weighed_by_all_clips_of_a_split() -> None:
    """A part of the clips scores what it scores among all."""
    said = [texts[1] for texts in REFERENCES]
    part = cider_of_each(said[:2], REFERENCES[:2], REFERENCES[2:])
    assert part == pytest.approx(cider_of_each(said, REFERENCES)[:2])
    assert part != pytest.approx(cider_of_each(said[:2], REFERENCES[:2]))


def test_another_clip_s_captions_score_next_to_nothing() -> None:
    said = [texts[0] for texts in REFERENCES]
    wrong = cider_of_each(said[1:] + said[:1], REFERENCES)
    assert np.all(wrong < cider_of_each(said, REFERENCES) / 5)


@pytest.mark.skipif(not shutil.which("java"), reason="pycocoevalcap's tokenizer needs Java")
def test_words_are_those_of_the_java_tokenizer() -> None:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    texts = [*TYPED, *(text for texts in REFERENCES for text in texts)]
    by_java = PTBTokenizer().tokenize({i: [{"caption": text}] for i, text in enumerate(texts)})
    mismatched = [
        text
        for i, text in enumerate(texts)
        if " ".join(caption_words(text)) not in (by_java[i][0], by_java[i][0].replace("-lrb- ", ""))
    ]
    assert mismatched == ["an old man who can't hear (he wears headphones)"]
