"""Figures with intervals: what resampling the clips gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reellama.pipeline.evaluation.bootstrap import bootstrap, exactly, mean, median, ratio

values = st.lists(st.floats(-100, 100), min_size=1, max_size=40)


@given(values)
def test_the_interval_holds_the_mean(column: list[float]) -> None:
    found = mean(column)
    assert found.value == pytest.approx(np.mean(column))
    assert found.low - 1e-9 <= found.value <= found.high + 1e-9


@given(values)
def test_the_interval_lies_among_the_values(column: list[float]) -> None:
    for found in (mean(column), median(column)):
        assert min(column) - 1e-9 <= found.low <= found.high <= max(column) + 1e-9


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(100):
        found = mean(rng.normal(3.0, 1.0, 100))
        held += found.low <= 3.0 <= found.high
    assert 88 <= held <= 100


def test_more_clips_make_a_narrower_interval() -> None:
    few, many = mean([0, 1] * 10), mean([0, 1] * 1000)
    assert many.high - many.low < (few.high - few.low) / 5


def test_the_same_values_give_the_same_interval() -> None:
    assert mean([1, 2, 3, 5]) == mean([1, 2, 3, 5])


def test_the_share_of_a_sum_is_weighed_by_what_each_clip_has() -> None:
    assert ratio([1, 0], [1, 9]).value == 0.1
    assert ratio([0, 0, 3], [0, 0, 3]).value == 1.0


def test_of_nothing_there_is_no_figure() -> None:
    for found in (mean([]), ratio([], []), ratio([0, 0], [0, 0])):
        assert math.isnan(found.value)
        assert str(found) == ""
        assert found.to_json() == {"value": None, "95%": [None, None]}


def test_a_figure_is_read_with_its_interval_and_a_known_one_without() -> None:
    assert str(exactly(0.25)) == "0.25"
    assert str(bootstrap(lambda drawn: float(len(set(drawn)) == 4), 4)).startswith("1 (0 to ")
