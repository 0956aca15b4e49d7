"""`reellama gguf convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from reellama.pipeline.cli.arguments.checks import check_conversion_type, check_mmproj_type


def command(
    folder: Annotated[
        Path,
        Argument(
            metavar="FOLDER",
            help="A Hugging Face model (config.json, *.safetensors), or a LoRA adapter of PEFT.",
        ),
    ],
    type_: Annotated[
        str | None,
        Argument(
            metavar="TYPE",
            callback=check_conversion_type,
            help="F32, F16, BF16 or Q8_0 (default: that of the weights).",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        Option(metavar="FILE", help="The GGUF that is written (default: NAME-TYPE.gguf here)."),
    ] = None,
    mmproj_type: Annotated[
        str,
        Option(
            metavar="TYPE",
            callback=check_mmproj_type,
            help="Of the mmproj of a vision model: f32, f16, bf16 or q8_0.",
        ),
    ] = "f16",
    base: Annotated[
        Path | None,
        Option(metavar="FOLDER", help="Of an adapter: its model; config.json is enough."),
    ] = None,
    force: Annotated[bool, Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Convert a Hugging Face folder of safetensors to GGUF; the paths come on stdout.

    A vision model gives two files: its language model and, beside it, its mmproj. A LoRA
    adapter gives a file for --lora.
    """
    from reellama.gguf_tools.conversion.convert import convert
    from reellama.gguf_tools.sizes import show_size
    from reellama.pipeline.cli.console import note, out, strip_control
    from reellama.pipeline.cli.progress import byte_bar

    with byte_bar("converting") as progress:
        result = convert(
            folder,
            type_,
            output,
            mmproj_type=mmproj_type,
            base=base,
            force=force,
            progress=progress,
        )
    for line in result.notes:
        note(line)
    for file in filter(None, (result, result.mmproj)):
        note(f"{file.n_tensors} tensors, {file.type}, {show_size(file.n_bytes)}")
        out.print(strip_control(str(file.path)), soft_wrap=True, markup=False)
