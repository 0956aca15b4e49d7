"""Captions that the LLM samples itself, and how much better than others they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reellama.models.training.batches import IGNORED, Conversations
from reellama.models.training.footage.caption_sampling import advantages, sample_captions
from reellama.models.training.frozen_llm import FrozenLLM
from reellama.models.training.objectives import AnswerObjective


@given(st.lists(st.floats(0, 10), min_size=2, max_size=8))
def test_advantages_cancel_out_and_keep_the_order(scores: list[float]) -> None:
    better = advantages(scores)
    assert sum(better) == pytest.approx(0, abs=1e-6)
    for a, b in zip(range(len(scores)), range(1, len(scores)), strict=False):
        assert (scores[a] - scores[b]) * (better[a] - better[b]) >= 0


@pytest.fixture(scope="module")
def llm(small_llm: Path) -> FrozenLLM:
    return FrozenLLM(small_llm)


@pytest.mark.numeric
def test_as_many_captions_as_asked_for_are_sampled_of_each_video(tiny_llama: Path) -> None:
    torch.manual_seed(0)
    llm = FrozenLLM(tiny_llama)
    before, after = llm.tokenizer.encode("A photo of"), llm.tokenizer.encode(":\n")
    soft = llm.embed(llm.tokenizer.encode("abcde")[-5:]).reshape(5, 1, -1)
    texts = sample_captions(llm, before, soft, after, 3, max_tokens=4)
    assert [len(captions) for captions in texts] == [3] * 5
    assert all(len(text) <= 4 for captions in texts for text in captions)  # its tokens are bytes
    assert len({text for captions in texts for text in captions}) > 5


@pytest.mark.slow
@pytest.mark.numeric
def test_the_loss_of_parts_that_weigh_the_same_is_the_usual_one(llm: FrozenLLM) -> None:
    question, answer = llm.tokenizer.encode("What?"), llm.tokenizer.encode("A red bus.")
    end = llm.tokenizer.eos
    assert end is not None
    answers = [[*answer, end], [*answer[:2], end]]
    ids = [[*question, *one] * 2 for one in answers]  # two parts each
    labels = [[*[IGNORED] * len(question), *one] * 2 for one in answers]
    parts = [[0] * (len(row) // 2) + [1] * (len(row) // 2) for row in ids]
    conversations = Conversations(ids, labels, parts)
    soft = llm.embed(llm.tokenizer.encode(" bus dog")).reshape(2, 1, -1)
    objective = AnswerObjective(llm, llm.tokenizer.encode("See"), separate_turns=True)
    usual = objective.loss(soft, conversations)
    alike = objective.weighted_loss(soft, conversations, torch.ones(2, 2))
    torch.testing.assert_close(alike, usual)
    only_one = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    half = objective.weighted_loss(soft, conversations, only_one)
    torch.testing.assert_close(half * 2, usual)  # both parts are alike, and all tokens count
