"""`reellama gguf quantize`: a model in other types."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, BadParameter, Exit, Option

from reellama.pipeline.cli.arguments.checks import (
    check_quant_type,
    check_size,
    check_tensor_type,
    checked_by,
)

if TYPE_CHECKING:
    from reellama.gguf_tools.measuring.mix_search import MixPlan, MixSettings
    from reellama.gguf_tools.quantization.quantize import Quantized, QuantizeProgress


def _list_types(wanted: bool) -> None:
    """Print the table of types and end: what `--types` does, whatever else is given."""
    if not wanted:
        return
    from rich.table import Table

    from reellama.gguf_tools.quantization.quant_types import COPY_TYPE, QUANT_TYPES
    from reellama.pipeline.cli.console import out

    table = Table("type", "bits per weight", "", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for type_ in QUANT_TYPES:
        table.add_row(type_.name, f"{type_.bits_per_weight:.4g}", type_.use)
    table.add_row(COPY_TYPE, "", "every tensor as it is: joins a split model")
    out.print(table)
    raise Exit


@checked_by
def _check_override(text: str) -> None:
    from reellama.gguf_tools.quantization.quant_options import parse_tensor_type
    from reellama.gguf_tools.quantization.quant_types import type_of_tensor

    type_of_tensor(parse_tensor_type(text)[1])


@checked_by
def _check_metadata(text: str) -> None:
    from reellama.gguf_tools.quantization.quant_options import parse_metadata

    parse_metadata(text)


def command(
    source: Annotated[
        str, Argument(metavar="SOURCE", help="A GGUF file, or a model's name; best in F16 or F32.")
    ],
    types: Annotated[
        list[str] | None,
        Argument(
            metavar="TYPE...",
            callback=check_quant_type,
            help="Such as Q4_K_M; --types lists them all.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        Option(
            "--output",
            "-o",
            metavar="PATH",
            help="File, or folder (default: the current one, SOURCE's name with the TYPE).",
        ),
    ] = None,
    imatrix: Annotated[
        Path | None,
        Option(metavar="FILE", help="Importance matrix, as `reellama gguf imatrix` makes it."),
    ] = None,
    target_size: Annotated[
        str | None,
        Option(
            metavar="SIZE",
            callback=check_size,
            help="In place of a TYPE: the best mix for a file of so much.",
        ),
    ] = None,
    target_bpw: Annotated[
        float | None, Option(min=0.5, metavar="X", help="The same in bits per weight.")
    ] = None,
    text: Annotated[
        Path | None,
        Option(metavar="FILE", help="What losses of a mix are measured on (default: prose)."),
    ] = None,
    chunks: Annotated[int, Option(min=1, metavar="N", help="So many chunks of it.")] = 4,
    tensor_type: Annotated[
        list[str] | None,
        Option(
            metavar="PATTERN=TYPE",
            callback=_check_override,
            help="A type for tensors whose name a regular expression finds; may be repeated.",
        ),
    ] = None,
    tensor_type_file: Annotated[
        Path | None, Option(metavar="FILE", help="More of these, PATTERN=TYPE in each line.")
    ] = None,
    pure: Annotated[bool, Option("--pure", help="The same type for all tensors.")] = False,
    output_type: Annotated[
        str | None,
        Option(metavar="TYPE", callback=check_tensor_type, help="Type of the output matrix."),
    ] = None,
    embedding_type: Annotated[
        str | None,
        Option(metavar="TYPE", callback=check_tensor_type, help="Type of the token embeddings."),
    ] = None,
    leave_output_tensor: Annotated[
        bool, Option("--leave-output-tensor", help="Keep the output matrix as it is.")
    ] = False,
    override_kv: Annotated[
        list[str] | None,
        Option(
            metavar="KEY=TYPE:VALUE",
            callback=_check_metadata,
            help="Set a key (TYPE: int, float, bool or str); may be repeated.",
        ),
    ] = None,
    prune_layers: Annotated[
        str, Option(metavar="N,...", help="Leave layers out, such as 3,5-7.")
    ] = "",
    keep_split: Annotated[
        bool, Option("--keep-split", help="Write a split model as so many files again.")
    ] = False,
    lora: Annotated[
        list[str] | None,
        Option(metavar="GGUF[=SCALE]", help="Merge a LoRA adapter in first; may be repeated."),
    ] = None,
    threads: Annotated[
        int, Option(min=0, metavar="N", help="Processor threads; 0: one for each processor.")
    ] = 0,
    dry_run: Annotated[
        bool,
        Option(
            "--dry-run",
            help="Say how large the files would be, and write none. With --target-size the mix is "
            "still searched, which takes minutes, and its plan is written.",
        ),
    ] = False,
    force: Annotated[bool, Option("--force", help="Replace files that exist.")] = False,
    list_types: Annotated[
        bool,
        Option("--types", is_eager=True, callback=_list_types, help="List the types and exit."),
    ] = False,
) -> None:
    """Quantize a model into one type or several."""
    from reellama.gguf_tools.quantization.quant_options import (
        parse_metadata,
        parse_tensor_type,
        read_tensor_types,
    )
    from reellama.gguf_tools.quantization.quantize_child import QuantizerProcess

    if target_size and target_bpw:
        raise BadParameter("--target-size and --target-bpw are one thing: give one of them")
    if not (types or target_size or target_bpw):
        raise BadParameter("which type? give one, such as Q4_K_M, or --target-size")
    tensor_types = [parse_tensor_type(text) for text in tensor_type or ()]
    if tensor_type_file is not None:
        tensor_types += read_tensor_types(tensor_type_file)
    if target_size or target_bpw:
        if types or tensor_types or lora or prune_layers or pure:
            raise BadParameter("--target-size and --target-bpw choose the types by themselves")
        from reellama.gguf_tools.measuring.mix_search import MixSettings  # it loads llama.cpp

        given: dict[str, Any] = {} if text is None else {"text": text}
        settings = MixSettings(n_chunks=chunks, n_threads=threads or None, imatrix=imatrix, **given)
        plan, output = _plan(source, target_size, target_bpw, output, settings, force=force)
        types, tensor_types = [plan.base], plan.tensor_types()
    with QuantizerProcess() as quantizer, _progress() as progress:
        # llama.cpp is loaded in the child while the rest is imported here.
        from reellama.gguf_tools.quantization.quantize import quantize
        from reellama.pipeline.cli.options import parse_adapters

        results = quantize(
            source,
            types or (),
            output,
            imatrix=imatrix,
            tensor_types=tensor_types,
            pure=pure,
            output_type=output_type,
            embedding_type=embedding_type,
            leave_output=leave_output_tensor,
            metadata=[parse_metadata(text) for text in override_kv or ()],
            prune_layers=prune_layers,
            keep_split=keep_split,
            loras=parse_adapters(lora),
            n_threads=threads,
            dry_run=dry_run,
            force=force,
            progress=progress,
            quantizer=quantizer,
        )
    _show(results)


def _plan(
    source: str,
    size: str | None,
    bits: float | None,
    output: Path | None,
    settings: MixSettings,
    *,
    force: bool,
) -> tuple[MixPlan, Path]:
    """Search a mix for a size; returns it and the file to write. The plan goes beside that."""
    from reellama.gguf_tools.atomic_write import check_new, check_writable
    from reellama.gguf_tools.format.reader import read_gguf
    from reellama.gguf_tools.locate.find import resolve
    from reellama.gguf_tools.measuring.mix_search import plan_mix
    from reellama.gguf_tools.quantization.output_files import default_name
    from reellama.gguf_tools.sizes import parse_size
    from reellama.pipeline.cli.console import note
    from reellama.pipeline.cli.progress import long_bar

    path = resolve(source)
    file = read_gguf(path)
    n_weights = sum(tensor.n_elements for tensor in file.tensors.values())
    n_bytes = parse_size(size) if size else round((bits or 0.0) * n_weights / 8)
    place = output or Path(default_name(file, f"{8 * n_bytes / n_weights:.2f}bpw"))
    if place.is_dir():
        place /= default_name(file, f"{8 * n_bytes / n_weights:.2f}bpw")
    check_new(place, force=force)
    check_writable(place)
    with long_bar("steps") as progress:
        plan = plan_mix(
            path, n_bytes, settings=settings, work=place.absolute().parent, progress=progress
        )
    types = place.with_suffix(".types.txt")
    plan.write(types)
    note(f"{types}: the plan, for --tensor-type-file; KL divergence about {plan.predicted_kl:.4f}")
    return plan, place


@contextmanager
def _progress() -> Iterator[QuantizeProgress]:
    """A bar over the tensors of one type after the other, which leaves nothing behind."""
    from reellama.pipeline.cli.console import err

    if not err.is_terminal:  # nobody waits for the import of the bar
        yield lambda doing, done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

    from reellama.pipeline.cli.terminal.progress_bars import Bars

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Bars(*columns, console=err, transient=True) as bars:
        task = bars.add_task("looking at the tensors", total=None)

        def progress(doing: str, done: int, total: int) -> None:
            bars.update(task, completed=done, total=total, description=doing)

        yield progress


def _show(results: list[Quantized]) -> None:
    """What came out on stdout, a line a file; what there is to say about it on stderr."""
    from reellama.gguf_tools.sizes import show_size
    from reellama.pipeline.cli.console import note, out, strip_control

    width = max(len(result.type) for result in results)
    for result in results:
        size = f"{show_size(result.n_bytes):>11}  {result.bits_per_weight:5.2f} bits per weight"
        line = f"{result.type:{width}}  {size}  {result.path}"
        out.print(strip_control(line), markup=False, soft_wrap=True)
    for line in dict.fromkeys(line for result in results for line in result.notes):
        note(f"note: {line}")
