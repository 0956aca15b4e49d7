"""How sure and how right: the error of calibration and its diagram."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reellama.pipeline.evaluation.calibration import (
    expected_calibration_error,
    plot_reliability,
    reliability,
)

truths = st.lists(st.booleans(), min_size=1, max_size=50)
answers = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50)


@given(truths)
def test_sure_and_right_answers_have_no_error(truth: list[bool]) -> None:
    assert expected_calibration_error([float(each) for each in truth], truth) == 0


@given(truths)
def test_sure_and_wrong_answers_have_the_full_error(truth: list[bool]) -> None:
    assert expected_calibration_error([float(not each) for each in truth], truth) == 1


@given(st.integers(0, 20), st.integers(1, 5))
def test_the_true_share_of_yes_as_probability_has_no_error(n_yes: int, times: int) -> None:
    truth = ([True] * n_yes + [False] * (20 - n_yes)) * times
    assert expected_calibration_error([n_yes / 20] * len(truth), truth) == pytest.approx(0)


@given(answers)
def test_the_error_is_a_share_and_every_answer_is_in_a_bin(asked: list[tuple[float, bool]]) -> None:
    p_yes, truth = zip(*asked, strict=True)
    assert 0 <= expected_calibration_error(p_yes, truth) <= 1
    assert sum(each.n for each in reliability(p_yes, truth)) == len(asked)


@given(answers, st.randoms())
def test_the_order_of_the_answers_does_not_matter(asked: list, random) -> None:
    shuffled = list(asked)
    random.shuffle(shuffled)
    p_yes, truth = zip(*asked, strict=True)
    others, its_truth = zip(*shuffled, strict=True)
    error = expected_calibration_error(p_yes, truth)
    assert expected_calibration_error(others, its_truth) == pytest.approx(error)


def test_the_error_by_hand() -> None:
    """Two bins: 0.9 said twice and right once is 0.4 apart; 0.2 said twice and never right, 0.2."""
    p_yes, truth = [0.9, 0.9, 0.2, 0.2], [True, False, False, False]
    assert expected_calibration_error(p_yes, truth) == pytest.approx((2 * 0.4 + 2 * 0.2) / 4)
    low, high = reliability(p_yes, truth)
    assert (low.n, low.observed, high.n, high.observed) == (2, 0.0, 2, 0.5)


def test_the_diagram_is_drawn_as_png_and_svg(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    p_yes = rng.random(200)
    bins = reliability(p_yes, rng.random(200) < p_yes)
    png, svg = plot_reliability(bins, tmp_path / "plot", "yes or no")
    assert png.read_bytes()[:4] == b"\x89PNG"
    assert "probability of yes" in svg.read_text()
