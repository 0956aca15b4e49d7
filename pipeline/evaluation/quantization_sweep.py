"""Evaluate an LLM at several quantizations: accuracy over bits per weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.model_summary import bits_per_weight, quantization
from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.quantization.output_files import default_name
from reellama.gguf_tools.quantization.quantize import quantize
from reellama.models.open_bundle import VideoBundle
from reellama.models.token_pooling.options import DEFAULT_POOLING, PoolingOptions
from reellama.pipeline.chat.conversation import Chat
from reellama.pipeline.evaluation.accuracy import Accuracy
from reellama.pipeline.evaluation.items import EvalItem, by_video
from reellama.pipeline.evaluation.runner import EncodedVideo, ask_items, encode_video
from reellama.pipeline.llm.engine import Engine
from reellama.pipeline.video.source import VideoError

COLUMNS_PER_TABLE = 7  # quantizations beside the names of tasks, in a terminal of 80 columns
SWEEP_TYPES = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")

# Questions done, their total if known, and the current activity.
Progress = Callable[[int, int | None, str], None]


@dataclass(frozen=True)
class SweepRow:
    """The accuracy of one file."""

    path: Path
    type: str
    n_bytes: int
    bits: float  # per weight
    accuracy: Accuracy  # multiple choice by probabilities, open answers by their texts
    generated: Accuracy  # all by their texts
    tasks: dict[str, Accuracy]  # as `accuracy`, by task

    def to_json(self) -> dict[str, Any]:
        """One object of the array that `--json` writes."""
        return {
            "file": self.path.name,
            "type": self.type,
            "bytes": self.n_bytes,
            "bits_per_weight": round(self.bits, 4),
            "accuracy": self.accuracy.to_json(),
            "generated": self.generated.to_json(),
            "tasks": {name: accuracy.to_json() for name, accuracy in self.tasks.items()},
        }


def quantize_all(llm: Path, folder: Path, types: Sequence[str] = SWEEP_TYPES) -> None:
    """Quantize `llm` into those of `types` that are not in `folder` yet."""
    file = read_gguf(llm)
    folder.mkdir(parents=True, exist_ok=True)
    for name in types:
        path = folder / default_name(file, name)
        if not path.exists():
            quantize(llm, name, path)


def list_ggufs(folder: Path) -> list[Path]:
    """The GGUFs of a folder. Raises ReellamaError if there is none."""
    ggufs = sorted(folder.glob("*.gguf"))
    if not ggufs:
        raise ReellamaError(f"{folder}: no GGUF there; name a folder with some, or add --quantize")
    return ggufs


def run_sweep(
    bundle: VideoBundle,
    items: Iterable[EvalItem],
    ggufs: Sequence[Path],
    progress: Progress | None = None,
    *,
    frames: int | None = None,
    pooling: PoolingOptions = DEFAULT_POOLING,
    **engine: Any,
) -> list[SweepRow]:
    """Ask all `items` except captions with each GGUF; each video is encoded once.

    Args:
        progress: called with the questions done, their total if known, and the current activity.
        frames: frames of a video; None means the bundle's number.
        engine: keyword arguments of `Engine`.

    Returns the rows sorted by bits per weight, largest first. Raises ReellamaError for a GGUF that
    does not fit the bundle, before any video is read.
    """
    for path in ggufs:
        bundle.check_llm(read_gguf(path))
    videos = _encode_all(bundle, items, progress, frames=frames, pooling=pooling)
    total = len(ggufs) * sum(len(video.items) for video in videos)
    if not total:
        raise ReellamaError("there is nothing to ask")
    rows: list[SweepRow] = []
    for path in ggufs:
        before = total // len(ggufs) * len(rows)

        def report(done: int, before: int = before, name: str = path.name) -> None:
            if progress:
                progress(before + done, total, name)

        rows.append(_row(bundle, videos, path, report, engine))
    return sorted(rows, key=lambda row: -row.bits)


def _encode_all(
    bundle: VideoBundle, items: Iterable[EvalItem], progress: Progress | None, **options: Any
) -> list[EncodedVideo]:
    videos: list[EncodedVideo] = []
    asked = (item for item in items if item.kind != "caption")
    for group in by_video(asked):
        try:
            videos.append(encode_video(bundle, group, **options))
        except VideoError:  # `reellama eval` with one LLM reports it
            continue
        if progress:
            progress(0, None, f"looked at {len(videos)} videos")
    return videos


def _row(
    bundle: VideoBundle,
    videos: Sequence[EncodedVideo],
    path: Path,
    report: Callable[[int], None],
    engine: dict[str, Any],
) -> SweepRow:
    right: dict[str, list[bool]] = {}
    generated_right: list[bool] = []
    with Engine(path, lora=bundle.lora, **engine) as llm:
        chat = Chat(llm, system=bundle.system)
        for video in videos:
            for answered in ask_items(chat, video, bundle.describe):
                right.setdefault(answered.item.task, []).append(answered.reply.right)
                generated_right.append(answered.reply.generated_right)
            report(len(generated_right))
    file = read_gguf(path)
    tasks = {name: Accuracy(sum(column), len(column)) for name, column in right.items()}
    return SweepRow(
        path=path,
        type=quantization(file),
        n_bytes=path.stat().st_size,
        bits=bits_per_weight(list(file.tensors.values())),
        accuracy=Accuracy(sum(s.right for s in tasks.values()), len(generated_right)),
        generated=Accuracy(sum(generated_right), len(generated_right)),
        tasks=tasks,
    )


def tables(rows: Sequence[SweepRow]) -> Group:
    """The rows as tables for a terminal: over all questions, then by task."""
    parts: list[Table | str] = [_all_questions(rows)]
    for first in range(0, len(rows), COLUMNS_PER_TABLE):
        parts += ["", _by_task(rows[first : first + COLUMNS_PER_TABLE])]
    return Group(*parts)


def _all_questions(rows: Sequence[SweepRow]) -> Table:
    grid = _grid("type", "bits", "MB", "right", "95%", "as text")
    for row in rows:
        low, high = row.accuracy.interval()
        grid.add_row(
            row.type,
            f"{row.bits:.2f}",
            f"{row.n_bytes / 1e6:.0f}",
            f"{row.accuracy.value:.1%}",
            f"{100 * low:.0f} to {100 * high:.0f}",
            f"{row.generated.value:.1%}",
        )
    return grid


def _by_task(rows: Sequence[SweepRow]) -> Table:
    grid = _grid("task", *(row.type for row in rows))
    for name in rows[0].tasks:
        grid.add_row(name, *(f"{row.tasks[name].value:.0%}" for row in rows))
    return grid


def _grid(*header: str) -> Table:
    grid = Table(*header, box=None, pad_edge=False)
    for column in grid.columns[1:]:
        column.justify = "right"
    return grid


def plot(rows: Sequence[SweepRow], path: Path, title: str) -> list[Path]:
    """Plot accuracy with its interval over bits per weight.

    Writes to `path` with the suffixes .png and .svg, and returns both paths. Raises ReellamaError
    if matplotlib is missing.
    """
    from reellama.gguf_tools.measuring import plots

    plots.check()
    from matplotlib.figure import Figure

    figure = Figure(figsize=plots.SIZE, dpi=plots.DPI, facecolor="white", layout="constrained")
    axes = figure.add_subplot(facecolor="white")
    bits = [row.bits for row in rows]
    values = [100 * row.accuracy.value for row in rows]
    ends = [[100 * end for end in row.accuracy.interval()] for row in rows]
    below = [max(0.0, value - low) for value, (low, _) in zip(values, ends, strict=True)]
    above = [max(0.0, high - value) for value, (_, high) in zip(values, ends, strict=True)]
    axes.errorbar(bits, values, [below, above], fmt="o-", color=plots.FRONT, capsize=3)
    for row, (low, _) in zip(rows, ends, strict=True):
        axes.annotate(
            row.type,
            (row.bits, low),
            (0, -5),
            textcoords="offset points",
            rotation=90,
            ha="center",
            va="top",
            fontsize=8,
        )
    axes.margins(y=0.15)  # room for the names
    axes.set_xlabel("bits per weight")
    axes.set_ylabel("right answers, %, with 95% interval")
    axes.set_title(title, fontsize=11)
    axes.grid(True, color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    return plots.write(figure, path)
