"""`reellama gguf imatrix`: an importance matrix for better quantizing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

if TYPE_CHECKING:
    from reellama.gguf_tools.quantization.imatrix import PromptProgress


def command(
    model: Annotated[
        str, Argument(metavar="MODEL", help="A GGUF file, or a model's name; best in F16 or Q8_0.")
    ],
    text: Annotated[
        Path, Argument(metavar="TEXT", help="A text file, of the kind that the model is used for.")
    ],
    output: Annotated[
        Path | None,
        Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The GGUF that is written (default: MODEL's name with -imatrix, here).",
        ),
    ] = None,
    ctx: Annotated[int, Option(min=16, metavar="N", help="Tokens of a chunk.")] = 512,
    chunks: Annotated[
        int | None, Option(min=1, metavar="N", help="At most N chunks (default: the whole text).")
    ] = None,
    threads: Annotated[
        int | None, Option(min=1, metavar="N", help="Processor threads (default: physical cores).")
    ] = None,
    force: Annotated[bool, Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Let a model read a text, and note which of its weights' inputs matter."""
    from reellama.gguf_tools.errors import ReellamaError
    from reellama.gguf_tools.locate.find import resolve
    from reellama.gguf_tools.quantization.imatrix import collect_from_text
    from reellama.pipeline.cli.console import out, strip_control

    path = resolve(model)
    output = output or Path(f"{path.name.removesuffix('.gguf')}-imatrix.gguf")
    if output.exists() and not force:
        raise ReellamaError(f"{output} exists; --force replaces it")
    with _progress() as report:
        matrix = collect_from_text(
            path, text, n_ctx=ctx, n_chunks=chunks, n_threads=threads, report=report
        )
    matrix.write(output)
    read = f"{matrix.chunk_count} chunks of {matrix.chunk_size} tokens"
    summary = f"{output}: {len(matrix.sums)} tensors, from {read}"
    out.print(strip_control(summary), markup=False, soft_wrap=True)


@contextmanager
def _progress() -> Iterator[PromptProgress]:
    """A bar over the chunks, with the time that is left; it leaves nothing behind."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from reellama.pipeline.cli.console import err

    columns = (
        TextColumn("reading chunks"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        task = bars.add_task("", total=None)

        def report(done: float, total: int | None) -> None:
            bars.update(task, completed=done, total=total)

        yield report
