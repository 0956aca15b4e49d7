"""`reellama gguf bench`: how fast a model is."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option


class Format(str, Enum):
    """How results are written."""

    TABLE = "table"
    MD = "md"
    CSV = "csv"
    JSON = "json"
    SQL = "sql"


def command(
    models: Annotated[list[str], Argument(metavar="MODEL", help="GGUFs.")],
    prompt: Annotated[
        str, Option("-p", "--n-prompt", metavar="N,...", help="Tokens of a prompt; 0: no such.")
    ] = "512",
    gen: Annotated[
        str, Option("-n", "--n-gen", metavar="N,...", help="Tokens to generate; 0: none.")
    ] = "128",
    soft: Annotated[
        str, Option("-s", "--n-soft", metavar="N,...", help="Soft tokens to read; 0: none.")
    ] = "64",
    threads: Annotated[
        str, Option("-t", "--threads", metavar="N,...", help="Default: physical cores.")
    ] = "",
    gpu_layers: Annotated[
        str, Option("-ngl", "--gpu-layers", metavar="N|auto|all,...", help="Layers on the GPU.")
    ] = "0",
    batch: Annotated[
        str, Option("-b", "--batch-size", metavar="N,...", help="Positions of one call.")
    ] = "2048",
    ubatch: Annotated[
        str, Option("-ub", "--ubatch-size", metavar="N,...", help="Positions computed at once.")
    ] = "512",
    type_k: Annotated[
        str, Option("-ctk", "--type-k", metavar="TYPE,...", help="KV cache: type of the keys.")
    ] = "f16",
    type_v: Annotated[
        str, Option("-ctv", "--type-v", metavar="TYPE,...", help="KV cache: type of the values.")
    ] = "f16",
    flash_attn: Annotated[
        str, Option("-fa", "--flash-attn", metavar="auto|on|off,...", help="Flash attention.")
    ] = "auto",
    repetitions: Annotated[
        int, Option("-r", "--repetitions", min=1, metavar="N", help="Times each test is repeated.")
    ] = 5,
    warmup: Annotated[bool, Option("--warmup/--no-warmup", help="Run once untimed first.")] = True,
    resume: Annotated[
        Path | None,
        Option(metavar="FILE", help="Keep results here; what it holds is not measured again."),
    ] = None,
    output: Annotated[Format, Option("-o", "--output", help="How to write it.")] = Format.TABLE,
) -> None:
    """Measure tokens a second, load time and memory, over a grid of settings.

    Options with commas make a grid: every combination is measured, in a process of its own. The
    tests are llama-bench's pp and tg, and sp, which reads soft tokens.
    """
    import sys

    from reellama.gguf_tools.locate import find
    from reellama.gguf_tools.measuring import bench
    from reellama.gguf_tools.measuring.bench_output import FORMATS, columns
    from reellama.pipeline.cli.options import parse_gpu_layers
    from reellama.pipeline.cli.progress import long_bar, parse_list, show_table

    setups = bench.grid(
        [find.resolve(model) for model in models],
        n_gpu_layers=parse_list(gpu_layers, parse_gpu_layers),
        n_batch=parse_list(batch, int),
        n_ubatch=parse_list(ubatch, int),
        type_k=parse_list(type_k, str),
        type_v=parse_list(type_v, str),
        flash_attn=parse_list(flash_attn, str),
        n_threads=parse_list(threads, int) or [None],
    )
    sizes = {"pp": prompt, "tg": gen, "sp": soft}
    tests = [
        bench.BenchTest(kind, n) for kind, text in sizes.items() for n in parse_list(text, int) if n
    ]
    with long_bar("runs") as progress:
        results = bench.run(
            setups, tests, repetitions, warmup=warmup, resume=resume, progress=progress
        )
    if output is Format.TABLE:
        show_table(*columns(results))
    else:
        sys.stdout.write(FORMATS[output.value](results))
