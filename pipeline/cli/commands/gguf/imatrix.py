"""`reellama gguf imatrix`: an importance matrix for better quantizing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, BadParameter, Exit, Option

if TYPE_CHECKING:
    from reellama.gguf_tools.quantization.imatrix import Imatrix, PromptProgress


def _show_statistics(path: Path | None) -> None:
    """Print the statistics of a matrix and end: what `--show-statistics` does."""
    if path is None:
        return
    from reellama.gguf_tools.quantization.imatrix import read_imatrix
    from reellama.gguf_tools.quantization.imatrix_statistics import imatrix_statistics
    from reellama.pipeline.cli.progress import show_table

    header = ["tensor", "sum", "min", "max", "mean", "sd", "active", "inputs", "entropy"]
    rows = [
        [
            row.tensor,
            *(f"{value:.4f}" for value in (row.total, row.minimum, row.maximum, row.mean)),
            f"{row.deviation:.4f}",
            f"{row.active:.2%}",
            str(row.n_inputs),
            f"{row.entropy:.4f}",
            f"{row.evenness:.2%}",
            f"{row.outliers:.2%}",
            "" if row.similarity is None else f"{row.similarity:.4f}",
        ]
        for row in imatrix_statistics(read_imatrix(path))
    ]
    show_table([*header, "evenness", "outliers", "like layer before"], rows)
    raise Exit


def command(
    model: Annotated[
        str, Argument(metavar="MODEL", help="A GGUF file, or a model's name; best in F16 or Q8_0.")
    ],
    text: Annotated[
        Path | None,
        Argument(metavar="TEXT", help="A text file, of the kind that the model is used for."),
    ] = None,
    output: Annotated[
        Path | None,
        Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The GGUF that is written (default: MODEL's name with -imatrix, here).",
        ),
    ] = None,
    video: Annotated[
        list[Path] | None,
        Option(
            metavar="FILE",
            help="A video, read as --bundle shows it, beside TEXT or alone; may be repeated.",
        ),
    ] = None,
    bundle: Annotated[
        str, Option(metavar="NAME|DIR", help="What makes soft tokens of --video.")
    ] = "mini",
    ctx: Annotated[
        int,
        Option(
            "--ctx", "--n-ctx", "--ctx-size", "-c", min=16, metavar="N", help="Tokens of a chunk."
        ),
    ] = 512,
    chunks: Annotated[
        int | None, Option(min=1, metavar="N", help="At most N chunks (default: the whole text).")
    ] = None,
    merge: Annotated[
        list[Path] | None,
        Option(metavar="FILE", help="Add another matrix of MODEL; without TEXT, only join these."),
    ] = None,
    save_every: Annotated[
        int, Option(min=0, metavar="N", help="Write what there is after every N chunks; 0: never.")
    ] = 0,
    resume: Annotated[
        bool, Option("--resume", help="Go on with what an earlier run has written to the output.")
    ] = False,
    process_output: Annotated[
        bool, Option("--process-output", help="The output matrix counts too.")
    ] = False,
    threads: Annotated[
        int | None, Option(min=1, metavar="N", help="Processor threads (default: physical cores).")
    ] = None,
    force: Annotated[bool, Option("--force", help="Replace a file that exists.")] = False,
    show_statistics: Annotated[
        Path | None,
        Option(
            is_eager=True,
            callback=_show_statistics,
            metavar="FILE",
            help="Say what a matrix holds, and exit.",
        ),
    ] = None,
) -> None:
    """Let a model read a text, and note which of its weights' inputs matter."""
    from reellama.gguf_tools.atomic_write import check_writable
    from reellama.gguf_tools.errors import ReellamaError
    from reellama.gguf_tools.locate.find import resolve
    from reellama.gguf_tools.quantization.imatrix import collect_from_text, read_imatrix
    from reellama.gguf_tools.quantization.imatrix_statistics import merge_imatrices
    from reellama.pipeline.cli.console import out, strip_control

    if text is None and not merge and not video:
        raise BadParameter("there is nothing to read: give a TEXT, --video or --merge")
    if process_output and text is None:
        raise BadParameter("--process-output needs a TEXT: of videos it counts nothing")
    path = resolve(model)
    output = output or Path(f"{path.name.removesuffix('.gguf')}-imatrix.gguf")
    there = output.exists()
    if there and not (force or resume):
        raise ReellamaError(f"{output} exists; --force replaces it, --resume goes on with it")
    check_writable(output)
    others = [(file, read_imatrix(file)) for file in merge or ()]

    def save(matrix: Imatrix) -> None:
        matrix.write(output)

    if text is not None:
        earlier = read_imatrix(output) if resume and there else None
        with _progress() as progress:
            own = collect_from_text(
                path,
                text,
                n_ctx=ctx,
                n_chunks=chunks,
                n_threads=threads,
                process_output=process_output,
                resume_from=earlier,
                save=save,
                save_every=save_every,
                progress=progress,
            )
        others.insert(0, (output, own))
    if video:
        others.append((path, _of_videos(path, video, bundle, ctx, threads)))
    matrix = merge_imatrices(others)
    save(matrix)
    read = f"{matrix.chunk_count} chunks of {matrix.chunk_size} tokens"
    summary = f"{output}: {len(matrix.sums)} tensors, from {read}"
    out.print(strip_control(summary), markup=False, soft_wrap=True)


def _of_videos(
    path: Path, videos: list[Path], bundle: str, n_ctx: int, n_threads: int | None
) -> Imatrix:
    """The matrix of what the model reads when it is asked about videos."""
    from reellama.gguf_tools.quantization.imatrix import collect
    from reellama.pipeline.chat.video_prompts import video_prompts

    # All of them first: the model is loaded for the answers, and then again to be looked into.
    prompts = list(video_prompts(videos, bundle, path, n_ctx=n_ctx, n_threads=n_threads))
    names = [file.name for file in videos]
    with _progress() as progress:
        return collect(
            path, prompts, n_ctx=n_ctx, n_threads=n_threads, datasets=names, progress=progress
        )


@contextmanager
def _progress() -> Iterator[PromptProgress]:
    """A bar over the chunks, with the time that is left; it leaves nothing behind."""
    from reellama.pipeline.cli.progress import progress_bar

    with progress_bar("reading chunks") as show:

        def progress(done: float, total: int | None) -> None:
            show(done, total or 0, "reading chunks")

        yield progress
