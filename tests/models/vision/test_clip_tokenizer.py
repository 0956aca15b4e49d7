"""CLIP's tokenizer without open_clip gives the token ids that open_clip's gives."""

from __future__ import annotations

import importlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from reellama.models.vision.clip_tokenizer import ClipTokenizer, bpe_merges
from reellama.models.vision.torchvision_compat import ensure_torchvision

ensure_torchvision()
open_clip = importlib.import_module("open_clip.tokenizer")
CONTEXT = 12
THEIRS = open_clip.SimpleTokenizer()
OURS = ClipTokenizer(bpe_merges(THEIRS), CONTEXT)
# What open_clip mends before it splits words, such as broken encodings, aside.
LETTERS = st.characters(codec="utf-8", categories=("Ll", "Lu", "Lo", "Nd", "Po", "Zs", "Sm"))


@given(st.one_of(st.text(LETTERS), st.text("abc 'stdrve19.,!&;\t\n")))
def test_any_text_has_the_ids_of_open_clip(text: str) -> None:
    wanted = THEIRS([text], CONTEXT).numpy()
    # Its repair of text may change letters; then only that its form is right is held.
    found = OURS.encode([text])
    assert found.shape == wanted.shape and found.dtype == np.int64
    if open_clip.basic_clean(text) == text.strip():
        assert np.array_equal(found, wanted)


def test_a_sentence_and_a_long_one() -> None:
    texts = ["A man's DOG runs; 12 caf\u00e9s &amp; more", "red " * 40, ""]
    assert np.array_equal(OURS.encode(texts), THEIRS(texts, CONTEXT).numpy())


def test_other_tokenizers_have_no_merges() -> None:
    assert not bpe_merges(open_clip.SimpleTokenizer(additional_special_tokens=["<mask>"]))
    assert not bpe_merges(str.split)
