"""Figures with the 95% interval that resampling gives (Efron, 1979, "Bootstrap methods")."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
SEED = 0  # of the resamples: the same answers give the same interval

# The numbers of the drawn clips, int [n], a number as often as it was drawn -> the figure.
Statistic = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class BootstrapEstimate:
    """A figure and the ends of its 95% interval; nan where nothing was there to measure."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.value):
            return ""
        if self.low == self.high == self.value:
            return f"{self.value:.3g}"
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"

    def to_json(self) -> dict[str, object]:
        """The figure as `value` and `95%`; None for nan, which JSON does not have."""
        value, low, high = (
            None if math.isnan(number) else round(number, 4)
            for number in (self.value, self.low, self.high)
        )
        return {"value": value, "95%": [low, high]}


def exactly(value: float) -> BootstrapEstimate:
    """A figure that is known, such as what guessing gets."""
    return BootstrapEstimate(value, value, value)


def bootstrap(statistic: Statistic, n: int, *, resamples: int = RESAMPLES) -> BootstrapEstimate:
    """`statistic` of all `n`, and the middle 95% of what it is for `n` of them drawn with return.

    A resample for which it is nan (no claim was made in it, say) is left out.
    """
    if not n:
        return exactly(math.nan)
    value = float(statistic(np.arange(n)))
    rng = np.random.default_rng(SEED)
    drawn = [float(statistic(rng.integers(n, size=n))) for _ in range(resamples)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy's about nothing but nan
        low, high = np.nanpercentile(drawn, (2.5, 97.5))
    return BootstrapEstimate(value, float(low), float(high))


def mean(values: Sequence[float] | np.ndarray) -> BootstrapEstimate:
    """The mean of one value a clip; of booleans, a share."""
    column = np.asarray(values, np.float64)
    return bootstrap(lambda drawn: float(column[drawn].mean()), len(column))


def median(values: Sequence[float] | np.ndarray) -> BootstrapEstimate:
    """The median of one value a clip."""
    column = np.asarray(values, np.float64)
    return bootstrap(lambda drawn: float(np.median(column[drawn])), len(column))


def ratio(
    parts: Sequence[float] | np.ndarray, wholes: Sequence[float] | np.ndarray
) -> BootstrapEstimate:
    """The sum of `parts` over the sum of `wholes`, one of each a clip; nan where that is 0."""
    some, all_of = np.asarray(parts, np.float64), np.asarray(wholes, np.float64)

    def share(drawn: np.ndarray) -> float:
        whole = all_of[drawn].sum()
        return float(some[drawn].sum() / whole) if whole else math.nan

    return bootstrap(share, len(some))
