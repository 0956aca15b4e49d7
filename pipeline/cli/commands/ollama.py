"""`reellama ollama`: what there is to do with an Ollama server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option, Typer

if TYPE_CHECKING:
    from reellama.pipeline.progress_callbacks import StepProgress

app = Typer(
    help="Give a bundle's LLM to an Ollama server.", no_args_is_help=True, rich_markup_mode=None
)


PUSHED = (
    "Ollama takes its two files as they are (`ollama create`, with FROM and the path of each in a "
    "Modelfile); push is for trained bundles"
)


@app.callback()
def ollama() -> None:
    """Makes `push` a command of its own although it is the only one."""


@app.command()
def push(
    bundle: Annotated[str, Argument(metavar="BUNDLE", help="Its name or folder.")] = "mini",
    name: Annotated[
        str | None,
        Option(metavar="NAME", help="What Ollama calls it; else as the bundle."),
    ] = None,
    host: Annotated[
        str | None,
        Option(metavar="URL", help="The server; else OLLAMA_HOST, or this machine."),
    ] = None,
) -> None:
    """Register a bundle's LLM, with its adapter, system prompt, template and parameters."""
    from reellama.models.open_bundle import trained_bundle
    from reellama.pipeline.cli.console import note, out, strip_control
    from reellama.pipeline.integrations import ollama_push

    with _bar() as report:
        registered = ollama_push.push(trained_bundle(bundle, PUSHED), name, host, report)
    out.print(strip_control(registered), markup=False, soft_wrap=True)
    note("Ollama runs the LLM alone: it sees no video")


@contextmanager
def _bar() -> Iterator[StepProgress]:
    """A progress bar for what is done just now; it leaves nothing behind."""
    from rich.progress import BarColumn, DownloadColumn, TextColumn

    from reellama.pipeline.cli.console import err, strip_control
    from reellama.pipeline.cli.terminal.progress_bars import Bars

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    with Bars(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        task = bars.add_task("", total=None)

        def report(what: str, done: float, total: float) -> None:
            bars.update(task, description=strip_control(what), completed=done, total=total or None)

        yield report
