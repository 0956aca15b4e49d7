"""Format a comparison as a table, Markdown, JSON, or a scatter plot of characters."""

from __future__ import annotations

import json
import math
import string
from collections.abc import Sequence
from typing import NamedTuple

from reellama.gguf_tools.measuring.compare import CompareRow, pareto_front
from reellama.gguf_tools.sizes import show_size

PLOT_MARKS = string.ascii_letters + string.digits


class ScatterPlot(NamedTuple):
    """The data of a scatter plot: a cost and the divergence of each type."""

    title: str
    x_label: str
    names: list[str]
    x: list[float]
    y: list[float]  # mean KL divergence, nats
    front: list[int]  # indices of the Pareto front, by x


Y_LABEL = "mean KL divergence from the base, nats (lower is better)"


def plots(rows: Sequence[CompareRow]) -> list[tuple[str, ScatterPlot]]:
    """Return the two plots of a comparison by name: quality over size, and quality over speed.

    Types without divergence, such as the base, are left out, because the axis is logarithmic.
    """
    plotted = [row for row in rows if row.kl is not None and row.kl.value > 0]
    names = [row.type for row in plotted]
    y = [row.kl.value for row in plotted if row.kl]
    sizes = [row.n_bytes / 1e6 for row in plotted]
    speeds = [row.tg.value for row in plotted]
    by_size = pareto_front(list(zip(sizes, y, strict=True)))
    by_speed = pareto_front([(-speed, loss) for speed, loss in zip(speeds, y, strict=True)])
    return [
        ("size", ScatterPlot("Quality over size", "file size, MB", names, sizes, y, by_size)),
        (
            "speed",
            ScatterPlot(
                "Quality over speed", "generation, tokens/s", names, speeds, y, by_speed[::-1]
            ),
        ),
    ]


def table(rows: Sequence[CompareRow]) -> tuple[list[str], list[list[str]]]:
    """Return the header and rows of the table, as strings."""
    with_vram = any(row.vram is not None for row in rows)
    with_accuracy = any(row.accuracy is not None for row in rows)
    header = ["type", "bits/weight", "size", "perplexity", "KL mean", "KL 99%", "same top"]
    header += ["pp t/s", "tg t/s", "memory", *["VRAM"] * with_vram, *["accuracy"] * with_accuracy]
    lines = []
    for row in rows:
        line = [row.type, f"{row.bits_per_weight:.2f}", show_size(row.n_bytes)]
        line += [f"{row.perplexity.value:.3f} ± {row.perplexity.error:.3f}"]
        line += [f"{row.kl.value:.5f} ± {row.kl.error:.5f}" if row.kl else ""]
        line += [f"{row.kl_p99:.4f}" if row.kl_p99 is not None else ""]
        line += [f"{row.same_top.value:.1%}" if row.same_top else ""]
        line += [f"{speed.value:.1f} ± {speed.error:.1f}" for speed in (row.pp, row.tg)]
        line += [show_size(row.peak_rss)]
        line += [show_size(row.vram or 0)] * with_vram
        line += [f"{row.accuracy or 0:.1%}"] * with_accuracy
        lines.append(line)
    return header, lines


def markdown(rows: Sequence[CompareRow]) -> str:
    """Return the table in Markdown."""
    header, lines = table(rows)
    marks = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, marks, *lines))


def as_json(rows: Sequence[CompareRow]) -> str:
    """Return a JSON array of objects."""
    return json.dumps([row.to_json() for row in rows], indent=2) + "\n"


def scatter(plot: ScatterPlot, width: int = 64, height: int = 16) -> str:
    """Return a plot of characters with a logarithmic y axis; better values are higher up.

    Each type is a letter. The legend marks types on the Pareto front with *. If several types share
    a cell, one on the front is shown, or else the first.
    """
    if not plot.names:
        return f"{plot.title}: there is nothing to draw\n"
    columns_ = _places(plot.x, width)
    lines_ = _places([math.log(value) for value in plot.y], height)
    cells = [[" "] * width for _ in range(height)]
    on_front = set(plot.front)
    for index in sorted(range(len(plot.names)), key=lambda i: (i not in on_front, i), reverse=True):
        cells[lines_[index]][columns_[index]] = PLOT_MARKS[index % len(PLOT_MARKS)]
    labels = {0: f"{min(plot.y):.4g}", height - 1: f"{max(plot.y):.4g}"}
    left, right = f"{min(plot.x):.4g}", f"{max(plot.x):.4g} {plot.x_label}"
    body = [f"{labels.get(i, ''):>9} |{''.join(line)}".rstrip() for i, line in enumerate(cells)]
    foot = f"{'':>9} +{'-' * width}"
    legend = [
        f"{PLOT_MARKS[i % len(PLOT_MARKS)]} {name}{'*' * (i in on_front)}"
        for i, name in enumerate(plot.names)
    ]
    head = f"{plot.title}: KL divergence, the least at the top (*: not beaten in both)"
    axis = f"{'':>11}{left}{right:>{max(width - len(left), len(right) + 1)}}"
    return "\n".join([head, *body, foot, axis, *_wrapped(legend, width), ""])


def _places(values: Sequence[float], n: int) -> list[int]:
    """Return the places of values on an axis of n places from their minimum to their maximum."""
    low, high = min(values), max(values)
    scale = (n - 1) / (high - low) if high > low else 0.0
    return [round((value - low) * scale) for value in values]


def _wrapped(words: Sequence[str], width: int) -> list[str]:
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) + 3 > width:
            lines.append("")
        lines[-1] += ("   " if lines[-1] else "") + word
    return [f"{'':>11}{line}" for line in lines]
