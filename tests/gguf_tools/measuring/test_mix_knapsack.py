"""One type for each tensor: never more bytes than asked for, and no single step would be better."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.measuring.mix_knapsack import Choice, choose_types

choices = st.lists(st.tuples(st.integers(1, 100), st.floats(0, 10)), min_size=1, max_size=4).map(
    lambda pairs: [Choice(f"T{i}", n, loss) for i, (n, loss) in enumerate(pairs)]
)
tensors = st.lists(choices, min_size=1, max_size=5).map(
    lambda lists: {f"t{i}": each for i, each in enumerate(lists)}
)


@given(tensors, st.integers(0, 300))
def test_the_mix_fits_and_no_step_that_fits_would_lose_less(
    options: dict[str, list[Choice]], room: int
) -> None:
    smallest = sum(min(each.n_bytes for each in of) for of in options.values())
    n_bytes = smallest + room
    chosen = choose_types(options, n_bytes)
    size = sum(choice.n_bytes for choice in chosen.values())
    assert chosen.keys() == options.keys() and size <= n_bytes
    assert all(choice in options[name] for name, choice in chosen.items())
    for name, now in chosen.items():
        for other in options[name]:
            assert other.loss >= now.loss or size + other.n_bytes - now.n_bytes > n_bytes


@given(tensors, st.integers(0, 200))
def test_the_mix_is_near_the_best_of_all_mixes(options: dict[str, list[Choice]], room: int) -> None:
    smallest = sum(min(each.n_bytes for each in of) for of in options.values())
    mixes = list(product(*options.values()))
    fitting = [mix for mix in mixes if sum(c.n_bytes for c in mix) <= smallest + room]
    best = min(sum(c.loss for c in mix) for mix in fitting)
    found = sum(c.loss for c in choose_types(options, smallest + room).values())
    # What one price for all bytes can miss is at most what one tensor loses.
    assert found <= best + max(c.loss for of in options.values() for c in of)


def test_all_room_loses_nothing_and_too_little_is_refused() -> None:
    options = {"a": [Choice("big", 10, 0.0), Choice("small", 4, 1.0)]}
    assert choose_types(options, 10)["a"].type == "big"
    assert choose_types(options, 9)["a"].type == "small"
    with pytest.raises(ReellamaError, match="the tensors take 4 B at the least, more than 3 B"):
        choose_types(options, 3)
