"""`reellama gguf perplexity`: how well a model predicts a text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

if TYPE_CHECKING:
    from reellama.gguf_tools.measuring.divergence import Estimate
    from reellama.gguf_tools.measuring.perplexity import TextQuality


def command(
    model: Annotated[str, Argument(metavar="MODEL", help="A GGUF.")],
    text: Annotated[
        Path | None, Argument(metavar="TEXT", help="A text file (default: English prose).")
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
    ctx: Annotated[int, Option(min=8, metavar="N", help="Tokens of a chunk.")] = 512,
    chunks: Annotated[
        int | None, Option(min=1, metavar="N", help="At most N chunks of the text.")
    ] = None,
    threads: Annotated[
        int | None, Option(min=1, metavar="N", help="Processor threads (default: physical cores).")
    ] = None,
    gpu_layers: Annotated[str, Option(metavar="N|auto|all", help="Layers on the GPU.")] = "0",
    json: Annotated[bool, Option("--json", help="One JSON object.")] = False,
) -> None:
    """Measure perplexity on a text and, against a reference, KL divergence and agreement.

    The text is cut as llama.cpp's llama-perplexity does it, so that the figures can be compared.
    """
    import sys
    from json import dumps

    from reellama.gguf_tools.locate import find
    from reellama.gguf_tools.measuring import perplexity
    from reellama.pipeline.cli.console import out
    from reellama.pipeline.cli.options import parse_adapters, parse_gpu_layers
    from reellama.pipeline.cli.progress import chunk_bar

    with chunk_bar() as progress:
        found = perplexity.measure_quality(
            find.resolve(model),
            text or perplexity.ENGLISH_TEXT,
            reference=find.resolve(reference) if reference else None,
            reference_logits=reference_logits,
            save_logits=save_logits,
            n_ctx=ctx,
            n_chunks=chunks,
            n_threads=threads,
            n_gpu_layers=parse_gpu_layers(gpu_layers),
            lora=parse_adapters(lora),
            progress=progress,
        )
    if json:
        sys.stdout.write(dumps(found.to_json(), indent=2, allow_nan=False) + "\n")
    else:
        out.print(report(found), markup=False, soft_wrap=True)


def report(found: TextQuality) -> str:
    """The figures, one a line, with their standard errors."""
    chunks = f"{found.n_chunks} chunks of {found.n_ctx}, {found.n_scored:,} tokens scored"
    lines = [
        f"{found.model.name} on {found.text.name}: {chunks}",
        _line("perplexity", found.perplexity),
    ]
    if (d := found.divergence) is not None:
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
