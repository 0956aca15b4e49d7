"""`reellama gguf compare`: what each type of quantization costs and gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from reellama.gguf_tools.user_paths import expand_user
from reellama.pipeline.cli.arguments.checks import check_gpu_layers, check_quant_type

if TYPE_CHECKING:
    from reellama.gguf_tools.measuring.compare import CompareRow


def command(
    base: Annotated[str, Argument(metavar="BASE", help="A GGUF, best F16, BF16 or F32.")],
    types: Annotated[
        list[str] | None,
        Argument(
            metavar="TYPE...", callback=check_quant_type, help="Such as Q4_K_M (default: 15)."
        ),
    ] = None,
    text: Annotated[
        Path | None, Option(metavar="FILE", help="What is read (default: English prose).")
    ] = None,
    ctx: Annotated[
        int,
        Option(
            "--ctx", "--n-ctx", "--ctx-size", "-c", min=8, metavar="N", help="Tokens of a chunk."
        ),
    ] = 512,
    chunks: Annotated[int, Option(min=1, metavar="N", help="At most N chunks of the text.")] = 8,
    bundle: Annotated[
        str | None,
        Option(metavar="NAME|DIR", help="Also describe videos with this bundle and each type."),
    ] = None,
    clips: Annotated[int, Option(min=1, metavar="N", help="How many, with --bundle.")] = 50,
    imatrix: Annotated[
        Path | None, Option(metavar="FILE", help="Importance matrix to quantize with.")
    ] = None,
    work: Annotated[
        Path | None, Option(metavar="DIR", help="Folder of what is done (default: in the cache).")
    ] = None,
    keep: Annotated[
        bool, Option("--keep", help="Keep the quantized models in that folder.")
    ] = False,
    plot: Annotated[
        Path | None, Option(metavar="PREFIX", help="Draw PREFIX-size and -speed, .png and .svg.")
    ] = None,
    threads: Annotated[
        int | None, Option(min=1, metavar="N", help="Processor threads (default: physical cores).")
    ] = None,
    gpu_layers: Annotated[
        str,
        Option(
            "--gpu-layers",
            "-ngl",
            metavar="N|auto|all",
            callback=check_gpu_layers,
            help="Layers on the GPU.",
        ),
    ] = "0",
    json: Annotated[bool, Option("--json", help="One JSON array.")] = False,
    markdown: Annotated[bool, Option("--markdown", help="The table in Markdown.")] = False,
) -> None:
    """Quantize a model into many types and measure size, quality, speed and memory of each.

    The same command goes on where a stopped one was.
    """
    import sys

    from reellama.gguf_tools.locate import find
    from reellama.gguf_tools.measuring import compare, compare_output, perplexity, plots
    from reellama.pipeline.cli.console import note, out
    from reellama.pipeline.cli.options import parse_gpu_layers
    from reellama.pipeline.cli.progress import long_bar, show_table

    if plot:
        plots.check()
    path = find.resolve(base)
    settings = compare.CompareSettings(
        text=expand_user(text or perplexity.ENGLISH_TEXT).absolute(),
        n_ctx=ctx,
        n_chunks=chunks,
        n_threads=threads,
        n_gpu_layers=parse_gpu_layers(gpu_layers),
        imatrix=expand_user(imatrix).absolute() if imatrix else None,
    )
    with long_bar("models") as progress:
        rows = compare.compare(
            path,
            types or compare.COMPARED_TYPES,
            work=work or _cache(path),
            settings=settings,
            score=_score(bundle, clips) if bundle else None,
            score_name=f"{bundle}, {clips} clips",
            keep=keep,
            progress=progress,
        )
    if json or markdown:
        form = compare_output.as_json if json else compare_output.markdown
        sys.stdout.write(form(rows))
    else:
        show_table(*compare_output.table(rows))
        for _, drawn in compare_output.plots(rows):
            out.print(f"\n{compare_output.scatter(drawn)}", markup=False, soft_wrap=True, end="")
    if plot:
        for name, drawn in compare_output.plots(rows):
            files = plots.save(drawn, plot.with_name(f"{plot.name}-{name}"), _subtitle(path, rows))
            note(f"drawn: {', '.join(map(str, files))}")


def _cache(path: Path) -> Path:
    from reellama.gguf_tools.cache_root import cache_root

    return cache_root() / "compare" / path.stem


def _score(bundle: str, clips: int) -> Callable[[Path], float]:
    """What share of pictures and motions in drawn clips is right, with a GGUF as the LLM."""

    def score(path: Path) -> float:
        from reellama.pipeline.evaluation.tasks.clip_descriptions import evaluate_descriptions

        shares = evaluate_descriptions(bundle, clips=clips, llm=path).scores.values()
        return sum(share.right for share in shares) / sum(share.of for share in shares)

    return score


def _subtitle(path: Path, rows: list[CompareRow]) -> str:
    base = rows[0]
    perplexity = f"perplexity {base.perplexity.value:.2f}"
    return f"{path.stem}: base {base.type}, {base.n_bytes / 1e6:.0f} MB, {perplexity}"
