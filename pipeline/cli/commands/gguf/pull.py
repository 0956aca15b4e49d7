"""`reellama gguf pull`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from typer import Argument, BadParameter, Option

from reellama.pipeline.cli.arguments.checks import check_hub_name

if TYPE_CHECKING:
    from reellama.gguf_tools.download.pull import FileProgress

AUTO = "auto"
MMPROJ_TYPES = (AUTO, "f16", "bf16", "q8_0", "f32", "none")


def _mmproj_type(value: str) -> str:
    if value.lower() not in MMPROJ_TYPES:
        raise BadParameter(f"{value!r} is not one of {', '.join(MMPROJ_TYPES)}")
    return "" if value.lower() == AUTO else value


def command(
    name: Annotated[
        str,
        Argument(
            metavar="OWNER/REPO[:QUANT-OR-FILE]",
            callback=check_hub_name,
            help="A repository, and which of its files: Q4_K_M (the default) or a file's name.",
        ),
    ],
    mmproj: Annotated[
        str,
        Option(
            callback=_mmproj_type,
            metavar="|".join(MMPROJ_TYPES),
            help="The type of the mmproj, which lets a model see; auto: the largest that fits.",
        ),
    ] = AUTO,
) -> None:
    """Download a model from the Hugging Face hub.

    It goes into the hub's cache, where other tools find it; the path comes on stdout. The same
    command goes on where a stopped one was. A vision model's mmproj comes with it.
    """
    from reellama.gguf_tools.download.pull import pull
    from reellama.pipeline.cli.console import note, out, strip_control

    with _bars() as progress:
        path = pull(name, progress, note, mmproj)
    out.print(strip_control(str(path)), markup=False, soft_wrap=True)


@contextmanager
def _bars() -> Iterator[FileProgress]:
    """A progress bar for each file that comes, and for its check."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    from reellama.pipeline.cli.console import err, strip_control
    from reellama.pipeline.cli.terminal.progress_bars import Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Bars(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                for other in tasks.values():
                    bars.update(other, visible=False)
                tasks[what] = bars.add_task(strip_control(what), total=total, completed=done)
            bars.update(tasks[what], completed=done)

        yield progress
