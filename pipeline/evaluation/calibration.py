"""Calibration of yes/no answers: expected calibration error and reliability diagram.

Guo et al., 2017, "On calibration of modern neural networks".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BINS = 10  # of equal width, from 0 to 1


@dataclass(frozen=True)
class ReliabilityBin:
    """The questions whose p(yes) is in one bin."""

    n: int  # questions
    predicted: float  # mean p(yes)
    observed: float  # share whose answer is yes


def reliability(
    p_yes: Sequence[float] | np.ndarray, is_yes: Sequence[bool] | np.ndarray, bins: int = BINS
) -> list[ReliabilityBin]:
    """The bins that are not empty, in ascending order.

    Args:
        p_yes: float `[n]`, the probability of yes.
        is_yes: bool `[n]`, whether yes is right.
    """
    predicted, observed = np.asarray(p_yes, np.float64), np.asarray(is_yes, bool)
    indices = np.minimum((predicted * bins).astype(int), bins - 1)  # [n]
    return [
        ReliabilityBin(int(mask.sum()), float(predicted[mask].mean()), float(observed[mask].mean()))
        for mask in (indices == i for i in range(bins))
        if mask.any()
    ]


def expected_calibration_error(
    p_yes: Sequence[float] | np.ndarray, is_yes: Sequence[bool] | np.ndarray, bins: int = BINS
) -> float:
    """The distance of mean p(yes) from the share of yes in a bin, averaged over the questions."""
    filled = reliability(p_yes, is_yes, bins)
    weighted_distance = sum(bin_.n * abs(bin_.predicted - bin_.observed) for bin_ in filled)
    return weighted_distance / len(p_yes) if len(p_yes) else float("nan")


def plot_reliability(bins: Sequence[ReliabilityBin], path: Path, title: str) -> list[Path]:
    """Write the reliability diagram to `path` with the suffixes .png and .svg.

    Returns both paths. Raises ReellamaError if matplotlib is missing or a file cannot be written.
    """
    from reellama.gguf_tools.measuring import plots

    plots.check()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 5.0), dpi=plots.DPI, facecolor="white", layout="constrained")
    axes = figure.add_subplot(facecolor="white")
    axes.plot([0, 1], [0, 1], "--", color=plots.OTHER, label="calibrated")
    x, y = [bin_.predicted for bin_ in bins], [bin_.observed for bin_ in bins]
    axes.plot(x, y, "o-", color=plots.FRONT, label="answers, with how many")
    for bin_ in bins:
        axes.annotate(str(bin_.n), (bin_.predicted, bin_.observed), (5, -11), fontsize=8,
                      textcoords="offset points")  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability of yes", ylabel="share of yes")
    axes.set_title(title, fontsize=11)
    axes.grid(True, color="#e4e4e4", linewidth=0.6)
    axes.legend(frameon=True, facecolor="white", fontsize=8, loc="upper left")
    return plots.write(figure, path)
