"""Choose one type for each tensor: the least loss for a size, a knapsack of many choices.

Losses add up and sizes add up, so a price for a byte decides each tensor by itself (Lagrange's
multiplier; Shoham and Gersho, "Efficient bit allocation for an arbitrary set of quantizers", 1988).
The price is found by bisection, and what it leaves of the size goes to the best single steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.sizes import show_size

BISECTIONS = 100


class Choice(NamedTuple):
    """A type that a tensor may get: the bytes of the tensor in it, and what that loses."""

    type: str
    n_bytes: int
    loss: float


def choose_types(options: Mapping[str, list[Choice]], n_bytes: int) -> dict[str, Choice]:
    """One of the options of each tensor, all of them together at most `n_bytes`.

    Raises ReellamaError where not even the smallest fit.
    """
    smallest = sum(min(choice.n_bytes for choice in choices) for choices in options.values())
    if smallest > n_bytes:
        raise ReellamaError(
            f"the tensors take {show_size(smallest)} at the least, more than {show_size(n_bytes)}: "
            "ask for a larger file, or give an --imatrix, which smaller types need"
        )
    low, high = 0.0, _highest_price(options)
    best = _at_price(options, high)
    for _ in range(BISECTIONS):
        price = (low + high) / 2
        chosen = _at_price(options, price)
        if _size(chosen) <= n_bytes:
            best, high = chosen, price
        else:
            low = price
    return _fill(options, best, n_bytes - _size(best))


def _highest_price(options: Mapping[str, list[Choice]]) -> float:
    """A loss for a byte at which every tensor takes its smallest type."""
    most = max(choice.loss for choices in options.values() for choice in choices)
    return most + 1.0  # types differ by one byte or more


def _at_price(options: Mapping[str, list[Choice]], price: float) -> dict[str, Choice]:
    return {
        name: min(
            choices, key=lambda choice: (choice.loss + price * choice.n_bytes, choice.n_bytes)
        )
        for name, choices in options.items()
    }


def _fill(
    options: Mapping[str, list[Choice]], chosen: dict[str, Choice], left: int
) -> dict[str, Choice]:
    """Take the step that gains most for its bytes, for as long as one fits into what is left."""
    chosen = dict(chosen)
    while True:
        steps = [
            ((now.loss - choice.loss) / max(choice.n_bytes - now.n_bytes, 1), name, choice)
            for name, now in chosen.items()
            for choice in options[name]
            if choice.loss < now.loss and choice.n_bytes - now.n_bytes <= left
        ]
        if not steps:
            return chosen
        _, name, choice = max(steps, key=lambda step: (step[0], step[1]))
        left -= choice.n_bytes - chosen[name].n_bytes
        chosen[name] = choice


def _size(chosen: Mapping[str, Choice]) -> int:
    return sum(choice.n_bytes for choice in chosen.values())
