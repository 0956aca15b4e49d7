"""Accuracy with a confidence interval."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers, with its 95% interval (Wilson, 1927)."""

    right: int
    of: int

    @property
    def value(self) -> float:
        """The share, 0 to 1; nan without answers."""
        return self.right / self.of if self.of else math.nan

    def interval(self, z: float = 1.96) -> tuple[float, float]:
        """The lower and the upper end of the interval."""
        if not self.of:
            return 0.0, 1.0
        p, n = self.value, self.of
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return middle - half, middle + half

    def to_json(self) -> dict[str, object]:
        """The share and its interval, as in `scores.json`."""
        low, high = self.interval()
        return {
            "share": round(self.value, 4),
            "of": self.of,
            "95%": [round(low, 4), round(high, 4)],
        }
