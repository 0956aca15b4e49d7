"""`reellama gguf bench`: how fast a model is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, BadParameter, Option

from reellama.pipeline.cli.arguments.checks import (
    bad_arguments,
    check_gpu_layers,
    check_kv_type,
    checked_by,
    each_of,
    one_of,
)
from reellama.pipeline.cli.arguments.value_lists import parse_numbers


class Format(str, Enum):
    """How results are written."""

    TABLE = "table"
    MD = "md"
    CSV = "csv"
    JSON = "json"
    JSONL = "jsonl"
    SQL = "sql"


_check_numbers = checked_by(parse_numbers)


@checked_by
def _check_placement(text: str) -> None:
    from reellama.gguf_tools.runtime.tensor_placement import parse_placement

    parse_placement(text)


@checked_by
def _check_pairs(text: str) -> None:
    numbers = parse_numbers(text)
    if len(numbers) != 2 or 0 in numbers:
        raise BadParameter(f"{text!r:.40} is not N,N such as 512,128")


def command(
    models: Annotated[
        list[str], Argument(metavar="MODEL...", help="GGUF files, or models' names.")
    ],
    prompt: Annotated[
        str,
        Option(
            "-p",
            "--n-prompt",
            metavar="N,...",
            callback=_check_numbers,
            help="Tokens of a prompt; 0: no such.",
        ),
    ] = "512",
    gen: Annotated[
        str,
        Option(
            "-n",
            "--n-gen",
            metavar="N,...",
            callback=_check_numbers,
            help="Tokens to generate; 0: none.",
        ),
    ] = "128",
    soft: Annotated[
        str,
        Option(
            "-s",
            "--n-soft",
            metavar="N,...",
            callback=_check_numbers,
            help="Soft tokens to read; 0: none.",
        ),
    ] = "64",
    prompt_gen: Annotated[
        list[str] | None,
        Option(
            "-pg",
            metavar="N,N",
            callback=_check_pairs,
            help="Read N tokens, then generate N; may be repeated.",
        ),
    ] = None,
    depth: Annotated[
        str,
        Option(
            "-d",
            "--n-depth",
            metavar="N,...",
            callback=_check_numbers,
            help="Positions that are there before.",
        ),
    ] = "0",
    parallel: Annotated[
        str,
        Option(
            "-npl",
            "--n-parallel",
            metavar="N,...",
            callback=_check_numbers,
            help="Sequences at once.",
        ),
    ] = "1",
    threads: Annotated[
        str,
        Option(
            "-t",
            "--threads",
            metavar="N,...",
            callback=_check_numbers,
            help="Default: physical cores.",
        ),
    ] = "",
    gpu_layers: Annotated[
        str,
        Option(
            "-ngl",
            "--gpu-layers",
            metavar="N|auto|all,...",
            callback=each_of(check_gpu_layers),
            help="Layers on the GPU.",
        ),
    ] = "0",
    cpu_moe: Annotated[
        str,
        Option(
            "-ncmoe",
            "--n-cpu-moe",
            metavar="N,...",
            callback=_check_numbers,
            help="The experts of the first N layers stay with the processor.",
        ),
    ] = "0",
    override_tensor: Annotated[
        str,
        Option(
            "-ot",
            "--override-tensor",
            metavar="PATTERN=MEMORY;...,...",
            callback=each_of(_check_placement),
            help="Memory for tensors whose name a regular expression finds, such as exps=CPU.",
        ),
    ] = "",
    batch: Annotated[
        str,
        Option(
            "-b",
            "--batch-size",
            metavar="N,...",
            callback=_check_numbers,
            help="Positions of one call.",
        ),
    ] = "2048",
    ubatch: Annotated[
        str,
        Option(
            "-ub",
            "--ubatch-size",
            metavar="N,...",
            callback=_check_numbers,
            help="Positions computed at once.",
        ),
    ] = "512",
    type_k: Annotated[
        str,
        Option(
            "-ctk",
            "--type-k",
            metavar="TYPE,...",
            callback=each_of(check_kv_type),
            help="KV cache: type of the keys.",
        ),
    ] = "f16",
    type_v: Annotated[
        str,
        Option(
            "-ctv",
            "--type-v",
            metavar="TYPE,...",
            callback=each_of(check_kv_type),
            help="KV cache: type of the values.",
        ),
    ] = "f16",
    flash_attn: Annotated[
        str,
        Option(
            "-fa",
            "--flash-attn",
            metavar="auto|on|off,...",
            callback=each_of(one_of("auto", "on", "off")),
            help="Flash attention.",
        ),
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

    Options with commas make a grid: every combination is measured, in a process of its own. A
    number may be a range: 16-64+16, 256-4096*2. The tests are llama-bench's pp, tg and pg, and sp,
    which reads soft tokens. With -npl they run in several sequences at once, as clients of a server
    do: all of their tokens are counted.
    """
    import sys

    from reellama.gguf_tools.locate import find
    from reellama.gguf_tools.measuring import bench
    from reellama.gguf_tools.measuring.bench_output import FORMATS, table
    from reellama.gguf_tools.measuring.bench_tests import BenchTest
    from reellama.pipeline.cli.arguments.value_lists import parse_list
    from reellama.pipeline.cli.options import parse_gpu_layers
    from reellama.pipeline.cli.progress import long_bar, show_table

    settings: dict[str, Any] = {
        "n_gpu_layers": parse_list(gpu_layers, parse_gpu_layers),
        "n_batch": parse_numbers(batch),
        "n_ubatch": parse_numbers(ubatch),
        "type_k": parse_list(type_k, str),
        "type_v": parse_list(type_v, str),
        "flash_attn": parse_list(flash_attn, str),
        "n_threads": parse_numbers(threads) or [None],
        "n_cpu_moe": parse_numbers(cpu_moe),
        "tensor_buft_overrides": override_tensor.split(","),
    }
    sizes = {"pp": prompt, "tg": gen, "sp": soft}
    tests = [
        BenchTest(kind, n, n_gen, at, n_parallel)
        for at in parse_numbers(depth)
        for n_parallel in parse_numbers(parallel)
        for kind, n, n_gen in _tests(sizes, prompt_gen or ())
    ]
    with bad_arguments():  # before any file is opened
        bench.check_tests(tests, repetitions)
        bench.grid([], **settings)
    setups = bench.grid([find.resolve(model) for model in models], **settings)
    with long_bar("runs") as progress:
        results = bench.run(
            setups, tests, repetitions, warmup=warmup, resume=resume, progress=progress
        )
    if output is Format.TABLE:
        show_table(*table(results))
    else:
        sys.stdout.write(FORMATS[output.value](results))


def _tests(sizes: dict[str, str], pairs: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Kinds of tests with their numbers of tokens, 0 left out."""
    for kind, text in sizes.items():
        yield from ((kind, n, 0) for n in parse_numbers(text) if n)
    for text in pairs:
        n, n_gen = parse_numbers(text)
        yield "pg", n, n_gen
