"""Choose a type for each tensor with the least total loss for a size: a multiple-choice knapsack.

Losses and sizes add up, so with a price for a byte (a Lagrange multiplier) each tensor's type can
be chosen by itself (Shoham and Gersho, "Efficient bit allocation for an arbitrary set of
quantizers", 1988). The price is found by bisection. Bytes that are left over go to the best single
changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.sizes import show_size

BISECTIONS = 100


class Choice(NamedTuple):
    """A type that a tensor may get, with the tensor's size and loss in it."""

    type: str
    n_bytes: int
    loss: float


def choose_types(options: Mapping[str, list[Choice]], n_bytes: int) -> dict[str, Choice]:
    """Choose one of the options of each tensor, with a total size of at most `n_bytes`.

    Raises ReellamaError if not even the smallest options fit.
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
    """A price (loss per byte) at which every tensor takes its smallest type."""
    max_loss = max(choice.loss for choices in options.values() for choice in choices)
    return max_loss + 1.0  # types differ by one byte or more


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
    """Make the changes with the largest gain per byte, as long as one fits into `left` bytes."""
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
