"""Progress bars, and tables of figures, of the commands that measure and make files."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from reellama.pipeline.cli.console import err, note, out, shows_progress, strip_control
from reellama.pipeline.cli.terminal.progress_bars import Bars
from reellama.pipeline.progress_callbacks import StepProgress

TABLE_WIDTH = 1000  # characters of a table in a terminal, which wraps its lines
SPEED_PERIOD = 3600.0  # seconds over which the speed is averaged for the time that remains


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[float, float, str], None]]:
    """A progress bar on stderr with the time that remains; it leaves nothing behind.

    What it gives takes how much is done, of how much, and what is being done.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Bars(
        *columns,
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
        speed_estimate_period=SPEED_PERIOD,
    ) as bars:
        task = bars.add_task(description, total=None)

        def report(done: float, total: float, doing: str) -> None:
            bars.update(task, completed=done, total=total, description=doing)

        yield report


@contextmanager
def chunk_bar() -> Iterator[Callable[[float, int, float], None]]:
    """A bar over the chunks of a text, with the perplexity so far."""
    with progress_bar("loading") as show:

        def report(done: float, total: int, perplexity: float) -> None:
            show(done, total, f"perplexity {perplexity:.3f}" if done else "reading")

        yield report


@contextmanager
def byte_bar(doing: str) -> Iterator[Callable[[int, int], None]]:
    """A bar over the bytes of files."""
    bar = BarColumn()
    columns = (
        TextColumn("{task.description}", markup=False),
        bar,
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        task = bars.add_task(doing, total=None)

        def report(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        yield report


@contextmanager
def long_bar(unit: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar for what takes long; where nobody watches, a line for each thing that begins.

    What it gives takes how many `unit` are done, of how many, and `thing` or `thing: part of it`.
    """
    started_at = time.monotonic()
    announced = ""
    with progress_bar("starting") as show:

        def report(done: int, total: int, what: str) -> None:
            nonlocal announced
            show(done, total, what)
            thing = what.partition(": ")[0]
            if thing != announced and not err.is_terminal:
                left = (time.monotonic() - started_at) / done * (total - done) if done else None
                when = f", about {duration(left)} left" if left is not None else ""
                note(f"{thing} ({done} of {total} {unit} done{when})")
            announced = thing

        yield report


@contextmanager
def step_bar(video: Path) -> Iterator[StepProgress]:
    """A progress bar for what is done just now; it leaves nothing behind."""
    name = strip_control(video.name or str(video))
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=err, transient=True, disable=not shows_progress()) as bars:
        tasks: dict[str, int] = {}

        def report(doing: str, done: float, total: float) -> None:
            if doing not in tasks:
                tasks[doing] = bars.add_task(f"{doing} {name}", total=None)
            bars.update(tasks[doing], completed=done, total=total or None)  # type: ignore[arg-type]

        yield report


def show_table(header: list[str], rows: list[list[str]], words: Collection[str] = ()) -> None:
    """Print a table whole, however narrow the terminal is.

    words: names of columns whose cells are words, as those of the first are; others are numbers.
    """
    table = Table(box=None, pad_edge=False)
    for name in header:
        is_words = name == header[0] or name in words
        table.add_column(name, justify="left" if is_words else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    wide = Console(highlight=False, width=TABLE_WIDTH) if out.is_terminal else out
    wide.print(table, crop=False)


def duration(seconds: float) -> str:
    """`40 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
