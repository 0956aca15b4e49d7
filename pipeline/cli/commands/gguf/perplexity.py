"""`reellama gguf perplexity`: how well a model predicts a text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, BadParameter, Option

from reellama.pipeline.cli.arguments.checks import check_gpu_layers

if TYPE_CHECKING:
    from reellama.gguf_tools.measuring.divergence import Estimate
    from reellama.gguf_tools.measuring.perplexity import TextQuality
    from reellama.gguf_tools.multiple_choice.choice_scores import ChoiceScore

HELLASWAG_TASKS = 400  # as llama-perplexity takes by default
TITLES = {
    "hellaswag": "HellaSwag",
    "winogrande": "WinoGrande",
    "multiple-choice": "multiple choice",
}


def command(
    model: Annotated[str, Argument(metavar="MODEL", help="A GGUF.")],
    text: Annotated[
        Path | None,
        Argument(metavar="TEXT", help="A text file (default: English prose), or tasks."),
    ] = None,
    reference: Annotated[
        str | None, Option(metavar="MODEL", help="Measure the KL divergence from this one as well.")
    ] = None,
    reference_logits: Annotated[
        Path | None,
        Option(metavar="FILE", help="Its logits, from --save-logits or llama-perplexity."),
    ] = None,
    save_logits: Annotated[
        Path | None,
        Option(metavar="FILE", help="Keep MODEL's logits, for --reference-logits: large."),
    ] = None,
    lora: Annotated[
        list[str] | None,
        Option(metavar="GGUF[=SCALE]", help="A LoRA adapter of MODEL; may be repeated."),
    ] = None,
    ctx: Annotated[
        int,
        Option(
            "--ctx", "--n-ctx", "--ctx-size", "-c", min=8, metavar="N", help="Tokens of a chunk."
        ),
    ] = 512,
    chunks: Annotated[
        int | None, Option(min=1, metavar="N", help="At most N chunks of the text.")
    ] = None,
    ppl_stride: Annotated[
        int,
        Option(min=0, metavar="N", help="Windows that begin every N tokens, in place of chunks."),
    ] = 0,
    hellaswag: Annotated[
        bool, Option("--hellaswag", help="TEXT is HellaSwag in llama.cpp's file: share right.")
    ] = False,
    hellaswag_tasks: Annotated[
        int, Option(min=1, metavar="N", help="How many of its tasks, drawn at random.")
    ] = HELLASWAG_TASKS,
    winogrande: Annotated[
        bool, Option("--winogrande", help="TEXT is WinoGrande in llama.cpp's file.")
    ] = False,
    winogrande_tasks: Annotated[
        int, Option(min=0, metavar="N", help="How many of its tasks; 0: all.")
    ] = 0,
    multiple_choice: Annotated[
        bool,
        Option("--multiple-choice", help="TEXT is ARC, MMLU or TruthfulQA in llama.cpp's file."),
    ] = False,
    multiple_choice_tasks: Annotated[
        int, Option(min=0, metavar="N", help="How many of its tasks; 0: all.")
    ] = 0,
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
    json: Annotated[bool, Option("--json", help="One JSON object.")] = False,
) -> None:
    """Measure perplexity on a text and, against a reference, KL divergence and agreement.

    The text is cut as llama.cpp's llama-perplexity does it, so that the figures can be compared.
    Benchmarks with several answers are scored as it does it too.
    """
    from reellama.gguf_tools.locate import find
    from reellama.gguf_tools.measuring import perplexity
    from reellama.pipeline.cli.options import parse_adapters, parse_gpu_layers
    from reellama.pipeline.cli.progress import chunk_bar

    n_tasks = {
        name: number
        for name, is_wanted, number in (
            ("hellaswag", hellaswag, hellaswag_tasks),
            ("winogrande", winogrande, winogrande_tasks),
            ("multiple-choice", multiple_choice, multiple_choice_tasks),
        )
        if is_wanted
    }
    compared = reference or reference_logits or save_logits
    _check_one_kind([*n_tasks, *(["ppl-stride"] if ppl_stride else [])], text, bool(compared))
    common: Any = {
        "n_ctx": ctx,
        "n_threads": threads,
        "n_gpu_layers": parse_gpu_layers(gpu_layers),
        "lora": parse_adapters(lora),
    }
    path = find.resolve(model)
    if n_tasks and text:
        [(benchmark, number)] = n_tasks.items()
        score = _score_choices(path, text, benchmark, number or None, common)
        _print(score.to_json() if json else choice_report(score))
        return
    with chunk_bar() as progress:
        common |= {"n_chunks": chunks, "progress": progress}
        if ppl_stride:
            quality = perplexity.measure_strided_perplexity(
                path, text or perplexity.ENGLISH_TEXT, stride=ppl_stride, **common
            )
        else:
            quality = perplexity.measure_perplexity(
                path,
                text or perplexity.ENGLISH_TEXT,
                reference=find.resolve(reference) if reference else None,
                reference_logits=reference_logits,
                save_logits=save_logits,
                **common,
            )
    _print(quality.to_json() if json else report(quality))


def _score_choices(
    path: Path, text: Path, benchmark: str, n_tasks: int | None, settings: dict[str, Any]
) -> ChoiceScore:
    """The score of a benchmark's tasks in `text`, with a progress bar."""
    from reellama.gguf_tools.multiple_choice.choice_scores import measure_choices
    from reellama.pipeline.cli.progress import progress_bar

    with progress_bar("loading") as show:
        return measure_choices(
            path,
            text,
            benchmark,
            n_tasks=n_tasks,
            progress=lambda done, total, share: show(done, total, f"{share:.1%} right"),
            **settings,
        )


def _print(result: dict[str, Any] | str) -> None:
    """Print an object as JSON, or a report as it is."""
    import json
    import sys

    from reellama.pipeline.cli.console import out

    if isinstance(result, str):
        out.print(result, markup=False, soft_wrap=True)
    else:
        sys.stdout.write(json.dumps(result, indent=2, allow_nan=False) + "\n")


def _check_one_kind(kinds: list[str], text: Path | None, is_compared: bool) -> None:
    """Raise BadParameter for options that ask for different things."""
    names = ", ".join(f"--{kind}" for kind in kinds)
    if len(kinds) > 1:
        raise BadParameter(f"{names} are different measures: choose one")
    if kinds and is_compared:
        raise BadParameter(f"{names} has no reference: it measures one model by itself")
    if kinds and kinds[0] in TITLES and text is None:
        raise BadParameter(f"{names} needs the file of its tasks: MODEL FILE {names}")


def choice_report(score: ChoiceScore) -> str:
    """The share right, with its error and its 95% interval, and what chance gives."""
    tasks = f"{TITLES[score.benchmark]}, {score.n_tasks:,} tasks"
    skipped = f" ({score.n_skipped:,} lines without one skipped)" if score.n_skipped else ""
    return "\n".join(
        [
            f"{score.model.name} on {score.file.name}: {tasks}{skipped}",
            f"{'right':<40}{score.share:9.2%} ± {score.error:.2%}",
            f"{'  95% interval':<40}{score.low:9.2%} to {score.high:.2%}",
            f"{'  by chance':<40}{score.chance:9.2%}",
        ]
    )


def report(quality: TextQuality) -> str:
    """The figures, one a line, with their standard errors."""
    n = quality.n_chunks
    chunks = f"{n} chunk{'s' * (n != 1)} of {quality.n_ctx}, {quality.n_scored:,} tokens scored"
    lines = [
        f"{quality.model.name} on {quality.text.name}: {chunks}",
        _line("perplexity", quality.perplexity),
    ]
    if (d := quality.divergence) is not None:
        lines += [
            _line(f"perplexity of {d.reference.name}", d.reference_perplexity),
            _line("ln of the ratio of the two", d.log_ratio, "9.5f"),
            _line("KL divergence, mean", d.kl, "9.5f"),
            f"{'  median':<40}{d.kl_median:9.5f}",
            f"{'  99%':<40}{d.kl_p99:9.5f}",
            f"{'  maximum':<40}{d.kl_max:9.5f}",
            _line("same likeliest token", d.same_top, "9.2%"),
            _line("change in probability, RMS", d.p_diff_rms, "9.3%"),
        ]
    return "\n".join(lines)


def _line(name: str, estimate: Estimate, form: str = "9.4f") -> str:
    error = format(estimate.error, form).strip()
    return f"{name:<40}{estimate.value:{form}} ± {error}"
