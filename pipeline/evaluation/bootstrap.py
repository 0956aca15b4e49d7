"""Bootstrap estimates with 95% intervals (Efron, 1979, "Bootstrap methods")."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
SEED = 0  # of the resamples, so that the same answers give the same interval

# Indices of the drawn clips with repetitions, int [n] -> the value.
Statistic = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class BootstrapEstimate:
    """A value and its 95% interval; nan if there was nothing to measure."""

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
        """The keys `value` and `95%`, with None in place of nan, which JSON does not have."""
        value, low, high = (
            None if math.isnan(number) else round(number, 4)
            for number in (self.value, self.low, self.high)
        )
        return {"value": value, "95%": [low, high]}


def exactly(value: float) -> BootstrapEstimate:
    """A value without uncertainty, such as the accuracy of guessing."""
    return BootstrapEstimate(value, value, value)


def bootstrap(statistic: Statistic, n: int, *, resamples: int = RESAMPLES) -> BootstrapEstimate:
    """`statistic` of all `n` items, with its interval over samples of `n` items with replacement.

    Samples for which the statistic is nan (for example, without any claim) are left out.
    """
    if not n:
        return exactly(math.nan)
    value = float(statistic(np.arange(n)))
    rng = np.random.default_rng(SEED)
    drawn = [float(statistic(rng.integers(n, size=n))) for _ in range(resamples)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy warns if all values are nan
        low, high = np.nanpercentile(drawn, (2.5, 97.5))
    return BootstrapEstimate(value, float(low), float(high))


def mean(values: Sequence[float] | np.ndarray) -> BootstrapEstimate:
    """The mean of the clips' values; of booleans, a share."""
    column = np.asarray(values, np.float64)
    return bootstrap(lambda drawn: float(column[drawn].mean()), len(column))


def median(values: Sequence[float] | np.ndarray) -> BootstrapEstimate:
    """The median of the clips' values."""
    column = np.asarray(values, np.float64)
    return bootstrap(lambda drawn: float(np.median(column[drawn])), len(column))


def ratio(
    parts: Sequence[float] | np.ndarray, wholes: Sequence[float] | np.ndarray
) -> BootstrapEstimate:
    """The sum of the clips' `parts` over the sum of their `wholes`; nan if the latter is 0."""
    numerators, denominators = np.asarray(parts, np.float64), np.asarray(wholes, np.float64)

    def share(drawn: np.ndarray) -> float:
        total = denominators[drawn].sum()
        return float(numerators[drawn].sum() / total) if total else math.nan

    return bootstrap(share, len(numerators))
