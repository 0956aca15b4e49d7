"""`reellama gguf split` and `reellama gguf join`: one model, several files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from reellama.pipeline.cli.arguments.checks import check_size

if TYPE_CHECKING:
    from reellama.gguf_tools.editing.model_copy import NewFile

Force = Annotated[bool, Option("--force", help="Replace files that exist.")]


def command(
    model: Annotated[str, Argument(metavar="MODEL", help="A GGUF file, or a model's name.")],
    output: Annotated[
        Path | None,
        Option(
            "--output",
            "-o",
            metavar="PREFIX",
            help="What the files' names begin with (default: MODEL's name, here).",
        ),
    ] = None,
    max_size: Annotated[
        str | None,
        Option(metavar="SIZE", callback=check_size, help="At most so much in a file, such as 2GB."),
    ] = None,
    max_tensors: Annotated[
        int, Option(min=1, metavar="N", help="Without --max-size: N tensors in a file.")
    ] = 128,
    dry_run: Annotated[bool, Option("--dry-run", help="Say which files, and write none.")] = False,
    force: Force = False,
) -> None:
    """Split a model into several files, as llama.cpp's gguf-split does."""
    from reellama.gguf_tools.editing.split import split
    from reellama.gguf_tools.sizes import parse_size
    from reellama.pipeline.cli.progress import byte_bar

    limit = parse_size(max_size) if max_size else None
    with byte_bar("splitting") as progress:
        files = split(
            model,
            output,
            max_bytes=limit,
            max_tensors=max_tensors,
            dry_run=dry_run,
            force=force,
            progress=progress,
        )
    for file in files:
        show(file)


def join(
    part: Annotated[str, Argument(metavar="MODEL", help="One of the files, or the model's name.")],
    output: Annotated[Path, Option("--output", "-o", metavar="FILE", help="The GGUF to write.")],
    force: Force = False,
) -> None:
    """Join the files of a split model into one."""
    from reellama.gguf_tools.editing.split import join as join_files
    from reellama.pipeline.cli.progress import byte_bar

    with byte_bar("joining") as progress:
        show(join_files(part, output, force=force, progress=progress))


def show(file: NewFile) -> None:
    """A line about a file that was written."""
    from reellama.gguf_tools.sizes import show_size
    from reellama.pipeline.cli.console import out, strip_control

    line = f"{file.path}: {len(file.tensors)} tensors, {show_size(file.n_bytes)}"
    out.print(strip_control(line), markup=False, soft_wrap=True)
