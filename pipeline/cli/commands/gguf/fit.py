"""`reellama gguf fit`: what of a model fits into a GPU's memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from reellama.pipeline.cli.arguments.checks import check_kv_type, check_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reellama.gguf_tools.format.reader import GGUFFile
    from reellama.gguf_tools.memory.offload import OffloadPlan

# The rows of the tables.
SHOWN_PRESETS = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_K_S", "IQ4_XS", "Q3_K_M", "Q2_K")
SHOWN_KV_TYPES = ("f16", "q8_0", "q4_0")
ASSUMPTIONS = (
    "Upper estimates: flash attention, batches of 512 with logits for all of them, sliding windows "
    "kept in full. The longest context is that with all layers on the GPU, at most what the model "
    "was trained on."
)


def command(
    model: Annotated[str, Argument(metavar="MODEL", help="A GGUF file, or a model's name.")],
    vram: Annotated[
        str | None,
        Option(
            metavar="SIZE",
            callback=check_memory,
            help="Plan for this much free memory, such as 12GiB or 8GB.",
        ),
    ] = None,
    ctx: Annotated[
        int,
        Option(
            "--ctx",
            "--n-ctx",
            "--ctx-size",
            "-c",
            min=1,
            metavar="N",
            help="Positions in the context.",
        ),
    ] = 4096,
    type_k: Annotated[
        str,
        Option(
            "--type-k",
            "-ctk",
            metavar="TYPE",
            callback=check_kv_type,
            help="KV cache: type of the keys.",
        ),
    ] = "f16",
    type_v: Annotated[
        str,
        Option(
            "--type-v",
            "-ctv",
            metavar="TYPE",
            callback=check_kv_type,
            help="KV cache: type of the values.",
        ),
    ] = "f16",
    json: Annotated[bool, Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Say how many layers fit on a GPU, what context does, and what other types would change."""
    from reellama.gguf_tools.format.split_files import read_model
    from reellama.gguf_tools.locate.find import resolve
    from reellama.gguf_tools.memory.offload import plan_offload
    from reellama.gguf_tools.sizes import parse_size

    file = read_model(resolve(model))
    free = parse_size(vram) if vram else _free_memory()
    this = plan_offload(file, ctx, free, type_k, type_v)
    (_write_json if json else _show)(file, this)


def _free_memory() -> int:
    """The memory that is free on the GPUs. Raises ReellamaError where there is none."""
    from reellama.gguf_tools.errors import ReellamaError
    from reellama.gguf_tools.runtime.backend import devices

    gpus = devices()
    if not gpus:
        raise ReellamaError(
            "llama.cpp finds no GPU here; say for how much memory to plan, such as --vram 12GiB"
        )
    return sum(gpu.free_bytes for gpu in gpus)


def _other_types(file: GGUFFile, this: OffloadPlan) -> Iterator[tuple[str, GGUFFile, OffloadPlan]]:
    from reellama.gguf_tools.memory.offload import plan_offload
    from reellama.gguf_tools.quantization.quant_presets import as_preset

    for name in SHOWN_PRESETS:
        other = as_preset(file, name)
        yield (
            name,
            other,
            plan_offload(other, this.n_ctx, this.free_bytes, this.type_k, this.type_v),
        )


def _other_caches(file: GGUFFile, this: OffloadPlan) -> Iterator[tuple[str, int, OffloadPlan]]:
    from reellama.gguf_tools.memory.estimates import kv_bytes
    from reellama.gguf_tools.memory.offload import plan_offload

    for type_ in SHOWN_KV_TYPES:
        size = sum(kv_bytes(file, i, this.n_ctx, type_, type_) for i in range(file.n_layer))
        yield type_, size, plan_offload(file, this.n_ctx, this.free_bytes, type_, type_)


def _write_json(file: GGUFFile, this: OffloadPlan) -> None:
    import json
    import sys
    from dataclasses import asdict

    from reellama.gguf_tools.format.model_summary import bits_per_weight

    fits = ("n_gpu_layers", "max_n_ctx")
    weights = [
        {
            "type": name,
            "size": other.size,
            "bits_per_weight": bits_per_weight(other.tensors.values()),
            **{field: getattr(its, field) for field in fits},
        }
        for name, other, its in _other_types(file, this)
    ]
    caches = [
        {"type": name, "kv_bytes": size, **{field: getattr(its, field) for field in fits}}
        for name, size, its in _other_caches(file, this)
    ]
    data = {"path": str(file.path), **asdict(this), "gpu_bytes": this.gpu_bytes}
    data |= {"estimates_by_type": weights, "by_kv_type": caches}
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def _show(file: GGUFFile, this: OffloadPlan) -> None:
    from rich.console import Group

    from reellama.gguf_tools.format.model_summary import bits_per_weight, quantization
    from reellama.gguf_tools.sizes import show_size
    from reellama.pipeline.cli.commands.gguf.inspect_tables import aligned, show

    def bits(file: GGUFFile) -> str:
        return f"{bits_per_weight(file.tensors.values()):.2f}"

    facts = f"{show_size(file.size)}, {quantization(file)}, {bits(file)} bits per weight"
    parts = {
        "weights": this.weight_bytes,
        f"KV cache, {this.n_ctx:,} positions ({this.type_k}, {this.type_v})": this.kv_bytes,
        "intermediate results": this.compute_bytes,
        "driver": this.overhead_bytes,
        "together": this.gpu_bytes,
    }
    types = [
        (name, show_size(other.size), bits(other), *_fits(its))
        for name, other, its in _other_types(file, this)
    ]
    caches = [(name, show_size(size), *_fits(its)) for name, size, its in _other_caches(file, this)]
    on_gpu = aligned(("on the GPU", "size"), [(name, show_size(n)) for name, n in parts.items()])
    last = "layers", "longest context"
    show(
        f"{file.path.name}: {facts}\n{_verdict(this)}",
        *[on_gpu] * bool(this.n_gpu_layers),
        Group(
            "The same model at other types, sizes estimated from its tensors' shapes:",
            aligned(("type", "size", "bits per weight", *last), types),
        ),
        Group(
            f"This file with another KV cache for {this.n_ctx:,} positions:",
            aligned(("KV type", "size", *last), caches),
        ),
        ASSUMPTIONS,
    )


def _verdict(this: OffloadPlan) -> str:
    from reellama.gguf_tools.sizes import show_size

    free, needed = show_size(this.free_bytes), show_size(this.all_bytes)
    if this.n_gpu_layers == this.n_gpu_layers_all:
        return f"All {this.n_gpu_layers_all} layers fit into {free}: they need {needed}."
    context = f" With a context of {this.max_n_ctx:,} all would fit." if this.max_n_ctx else ""
    layers = f"{this.n_gpu_layers} of {this.n_gpu_layers_all} layers"
    return f"{layers} fit into {free}: all would need {needed}.{context}"


def _fits(its: OffloadPlan) -> tuple[str, str]:
    layers = f"{its.n_gpu_layers} of {its.n_gpu_layers_all}"
    return layers, f"{its.max_n_ctx:,}" if its.max_n_ctx else "-"
