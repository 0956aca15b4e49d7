"""The likeliest tokens of a vocabulary, against a plain sort of the whole softmax."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from reellama.pipeline.llm.scoring.token_probabilities import TokenProbabilities

pytestmark = pytest.mark.numeric

# Few different values, so that many are equal; some tokens are impossible.
LOGITS = st.integers(1, 400).flatmap(
    lambda n: arrays(
        np.float32, n, elements=st.sampled_from([-np.inf, -80.0, -2.5, 0.0, 0.25, 7.0, 30.0])
    )
)


@given(LOGITS.filter(lambda logits: np.isfinite(logits).any()), st.integers(1, 12))
def test_the_likeliest_tokens_are_those_of_a_sort(logits: np.ndarray, n: int) -> None:
    probabilities = TokenProbabilities(len(logits))
    best = probabilities.best(logits, n)
    exact = np.exp(logits.astype(np.float64) - logits.max())
    exact /= exact.sum()
    order = np.argsort(-exact, kind="stable")[:n]  # of equal ones the first, as llama.cpp chooses
    assert [token for token, _ in best] == order.tolist()
    assert [p for _, p in best] == pytest.approx(exact[order].tolist(), rel=1e-4, abs=1e-30)
    assert all(probabilities.of(token) == p for token, p in best)
