"""Soft tokens that cannot be right are refused before llama.cpp sees them."""

import numpy as np
import pytest

from reellama.gguf_tools.errors import ReellamaError
from reellama.pipeline.llm.engine import Engine, Text

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        (np.zeros((4, 640), np.float32), r"shape \[4, 640\].* takes \[n, 576\]"),
        (np.zeros(576, np.float32), r"shape \[576\]"),
        (np.zeros((1, 4, 576), np.float32), r"shape \[1, 4, 576\]"),
        (np.zeros((4, 576), np.float64), "float64, not float32"),
        (np.full((4, 576), np.nan, np.float32), "NaN"),
        (np.full((4, 576), np.inf, np.float32), "infinity"),
    ],
)
def test_bad_soft_tokens_are_refused_and_nothing_is_lost(
    engine: Engine, array: np.ndarray, complaint: str
) -> None:
    engine.prefill([Text("before")])
    n_past = engine.n_past
    with pytest.raises(ReellamaError, match=complaint) as caught:
        engine.prefill([array, Text("after")])
    assert "\n" not in str(caught.value)
    assert engine.n_past == n_past


def test_a_part_of_another_kind_is_refused(engine: Engine) -> None:
    with pytest.raises(ReellamaError, match="part 1 of the prompt is str"):
        engine.prefill([Text("a"), "b"])  # type: ignore[list-item]  # the mistake to be caught


def test_rows_that_are_not_contiguous_are_taken_as_they_read(engine: Engine) -> None:
    rows = np.random.default_rng(0).normal(0, 0.1, (4, 576)).astype(np.float32)
    expected = engine.logits_all([rows])
    np.testing.assert_array_equal(engine.logits_all([np.asfortranarray(rows)]), expected)
    spread = np.repeat(rows, 2, axis=0)[::2]
    np.testing.assert_array_equal(engine.logits_all([spread]), expected)


def test_no_soft_tokens_are_no_part_at_all(engine: Engine) -> None:
    nothing = np.zeros((0, 576), np.float32)
    assert engine.count([nothing, Text("a"), nothing]) == engine.count([Text("a")])
