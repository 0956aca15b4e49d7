"""Answers are judged: by the probabilities of choices, and by what a text names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.evaluation.answer_matching import (
    choice_probabilities,
    contains,
    mentioned_choices,
)
from reellama.pipeline.llm.engine import Engine, Text
from reellama.pipeline.llm.scoring.token_probabilities import log_softmax
from tests.helpers.forced_sampling import ROUNDING, saying

pytestmark = pytest.mark.numeric


def test_probabilities_of_choices_are_those_of_their_tokens(tiny_llama: Path) -> None:
    """Each choice and the end of the turn, scored once more with the whole text read anew.

    All in float32, where reading a text at once or in parts makes next to no difference.
    """
    choices = ["left", "to the upper right", "I do not know"]
    prompt, scores = [Text("Where?")], []
    exact: dict[str, Any] = {"type_k": "f32", "type_v": "f32", "flash_attn": "off"}
    with Engine(tiny_llama, n_ctx=256, n_threads=1, **exact) as engine:
        found = choice_probabilities(engine, prompt, choices)
        for choice in choices:
            ids = [*engine.tokenizer.encode(choice), engine.tokenizer.eos]
            n = engine.count(prompt)
            end = Text("</s>", special=True)
            logits = engine.logits_all([*prompt, Text(choice), end])[n - 1 : -1]
            scores.append(log_softmax(logits)[np.arange(len(ids)), np.array(ids)].sum())
    expected = np.exp(np.array(scores) - max(scores))
    assert found == pytest.approx(expected / expected.sum(), rel=1e-3)


def test_the_prompt_is_read_once_for_all_choices(engine: Engine) -> None:
    prompt = [Text("One two three four five six seven eight nine ten")]
    choice_probabilities(engine, prompt, ["eleven", "twelve and more", "red"])
    assert engine.last.n_read == engine.count(prompt)
    assert engine.prefill(prompt).n_reused >= engine.count(prompt) - 1


def test_an_engine_answers_the_same_after_scoring(engine: Engine) -> None:
    prompt = [Text("The capital of France is")]

    def say() -> np.ndarray:
        """How likely it found each token of what it is made to say."""
        return np.log([token.p for token in engine.generate(prompt, saying(" in Italy."))])

    before = say()
    engine.logprobs(prompt, [[5, 6, 7], [8]])
    np.testing.assert_allclose(say(), before, atol=ROUNDING)


def test_a_continuation_of_nothing_is_refused(engine: Engine) -> None:
    with pytest.raises(ReellamaError, match="no tokens"):
        engine.logprobs([Text("a")], [[1], []])


@pytest.mark.parametrize(
    ("said", "choices"),
    [
        ("Up and right.", [1]),
        ("It moves right", [0]),
        ("right or left", [0, 2]),
        ("copyright", []),
        ("There are 3.", [3]),
        ("", []),
    ],
)
def test_a_text_names_choices_as_whole_words(said: str, choices: list[int]) -> None:
    assert mentioned_choices(said, ["right", "up and right", "left", "three"]) == choices


@given(choices=st.lists(st.text("abc ", min_size=1).filter(str.strip), min_size=1, unique=True))
def test_a_choice_said_as_it_is_is_named(choices: list[str]) -> None:
    for i, choice in enumerate(choices):
        assert i in mentioned_choices(f"It is {choice}!", choices)


def test_an_open_answer_is_right_when_its_words_are_said_together() -> None:
    assert contains("I see a Red  Apple, I think.", "the red apple")
    assert not contains("A red and green apple", "red apple")
    assert not contains("A hotdog", "dog")
    assert not contains("anything", "?")
