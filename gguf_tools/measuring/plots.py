"""The two plots of a comparison as PNG and SVG. Needs matplotlib: pip install "reellama[plots]"."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from reellama.gguf_tools.atomic_write import replacing
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.measuring.compare_output import Y_LABEL, ScatterPlot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = (8.0, 5.0)  # inches
DPI = 160
FRONT, OTHER = "#0b5fa5", "#8a8a8a"  # also distinct by shape and line
# Possible places of a name beside its point: offsets x and y in points, and alignments.
SPOTS = (
    (7, 0, "left", "center"),
    (-7, 0, "right", "center"),
    (0, 7, "center", "bottom"),
    (0, -7, "center", "top"),
    (6, 9, "left", "bottom"),
    (6, -9, "left", "top"),
    (-6, 9, "right", "bottom"),
    (-6, -9, "right", "top"),
)


def check() -> None:
    """Raise ReellamaError when matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401  # only to see whether it is there
    except ImportError as error:
        raise ReellamaError(
            'plots need matplotlib; install it with: pip install "reellama[plots]"'
        ) from error


def save(plot: ScatterPlot, path: Path, subtitle: str = "") -> list[Path]:
    """Write a plot to `path` with .png and with .svg; returns both paths.

    The background is white, for light and dark pages. Raises ReellamaError if matplotlib is missing
    or a file cannot be written.
    """
    check()
    return write(draw(plot, subtitle), path)


def write(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as `path` with .png and with .svg; returns both paths."""
    import matplotlib

    written = []
    # Text stays text in an SVG, and the same plot gives the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "reellama"}):
        for kind, metadata in (("png", {}), ("svg", {"Date": None})):
            target = path.with_name(f"{path.name}.{kind}")
            with replacing(target) as temporary:
                figure.savefig(temporary, format=kind, metadata=metadata)
            written.append(target)
    return written


def draw(plot: ScatterPlot, subtitle: str = "") -> Figure:
    """Return a figure: every type as a point with its name, and the Pareto front as a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.add_subplot(facecolor="white")
    front = [(plot.x[index], plot.y[index]) for index in plot.front]
    beaten = [index for index in range(len(plot.names)) if index not in set(plot.front)]
    axes.plot(*zip(*front, strict=True), "o-", color=FRONT, label="Pareto front", zorder=3)
    if beaten:
        x, y = ([values[index] for index in beaten] for values in (plot.x, plot.y))
        axes.plot(x, y, "s", color=OTHER, markersize=5, label="beaten in both by another")
    axes.set_yscale("log")
    axes.margins(0.12)
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(Y_LABEL)
    axes.set_title(f"{plot.title}\n{subtitle}" if subtitle else plot.title, fontsize=11)
    axes.grid(True, which="both", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=True, facecolor="white", fontsize=8)
    _name_points(figure, axes, plot)
    return figure


def _name_points(figure: Figure, axes: Any, plot: ScatterPlot) -> None:
    """Write each name at the spot where it covers the fewest points and other names."""
    figure.draw_without_rendering()  # computes the positions of the points
    points = axes.transData.transform(list(zip(plot.x, plot.y, strict=True)))
    name_boxes: list[Any] = []
    for name, x, y in zip(plot.names, plot.x, plot.y, strict=True):
        candidates = []
        for number, (dx, dy, horizontal, vertical) in enumerate(SPOTS):
            label = axes.annotate(
                name,
                (x, y),
                (dx, dy),
                textcoords="offset points",
                ha=horizontal,
                va=vertical,
                fontsize=8,
                color="black",
                zorder=4,
            )
            box = label.get_window_extent()
            covered = sum(box.overlaps(name_box) for name_box in name_boxes) * 2
            covered += sum(box.contains(*point) for point in points)
            candidates.append((covered, number, label, box))
        _, best, _, box = min(candidates, key=lambda candidate: candidate[:2])
        for _, number, label, _ in candidates:
            if number != best:
                label.remove()
        name_boxes.append(box)
