"""`reellama gguf pick`: which quantization to use on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from reellama.gguf_tools.user_paths import expand_user
from reellama.pipeline.cli.arguments.checks import (
    check_gpu_layers,
    check_memory,
    check_quant_type,
)

if TYPE_CHECKING:
    from reellama.gguf_tools.picking.candidates import Source
    from reellama.gguf_tools.picking.pick import Picked
    from reellama.gguf_tools.picking.selection import Limits

HEADER = ["type", "size", "KL mean", "same top", "tg t/s", "at most", "needs", "layers", "verdict"]


def command(
    model: Annotated[
        str, Argument(metavar="MODEL|hf:OWNER/REPO", help="A GGUF, best F16, or a repository.")
    ],
    max_kld: Annotated[
        float | None, Option(min=0, metavar="NATS", help="Mean KL divergence at most, as 0.02.")
    ] = None,
    min_speed: Annotated[
        float | None, Option(min=0, metavar="N", help="Tokens a second at least.")
    ] = None,
    vram: Annotated[
        str | None,
        Option(
            metavar="SIZE",
            callback=check_memory,
            help="All of it must fit into this, such as 12GiB.",
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
    types: Annotated[
        str, Option(metavar="TYPE,...", help="Of these (default: six, or all that the hub has).")
    ] = "",
    text: Annotated[
        Path | None, Option(metavar="FILE", help="What is read (default: English prose).")
    ] = None,
    chunks: Annotated[int, Option(min=1, metavar="N", help="At most N chunks of 512.")] = 2,
    threads: Annotated[
        int | None, Option(min=1, metavar="N", help="Processor threads (default: physical cores).")
    ] = None,
    gpu_layers: Annotated[
        str | None,
        Option(
            "--gpu-layers",
            "-ngl",
            metavar="N|auto|all",
            callback=check_gpu_layers,
            help="Layers on the GPU (default: auto).",
        ),
    ] = None,
    json: Annotated[bool, Option("--json", help="One JSON object.")] = False,
) -> None:
    """Measure the quantizations of a model here, and say which one to use.

    With --max-kld it is the smallest that keeps all limits, without it the one with the least KL
    divergence. What was measured is remembered. Of the hub, files are downloaded and deleted in
    turn.
    """
    from typer import Exit

    from reellama.gguf_tools.cache_root import cache_root
    from reellama.gguf_tools.locate.mmproj_choice import memory_size
    from reellama.gguf_tools.locate.naming import HUB_PREFIX
    from reellama.gguf_tools.measuring.perplexity import ENGLISH_TEXT
    from reellama.gguf_tools.picking.candidates import HubModel, LocalModel
    from reellama.gguf_tools.picking.pick import PickSettings, pick
    from reellama.gguf_tools.picking.selection import Limits
    from reellama.gguf_tools.runtime.backend import devices
    from reellama.gguf_tools.sizes import parse_size
    from reellama.pipeline.cli.console import note
    from reellama.pipeline.cli.options import parse_gpu_layers
    from reellama.pipeline.cli.progress import long_bar

    wanted = [type_.strip() for type_ in types.split(",") if type_.strip()]
    if not model.startswith(HUB_PREFIX):  # a repository has names of its own
        check_quant_type(wanted)
    gpus = devices()
    given = parse_size(vram) if vram else None
    free = sum(gpu.free_bytes for gpu in gpus) or memory_size()
    limits = Limits(max_kld, min_speed, given or (free if gpus else None))
    settings = PickSettings(
        text=expand_user(text or ENGLISH_TEXT).absolute(),
        n_chunks=chunks,
        n_threads=threads,
        n_gpu_layers=parse_gpu_layers(gpu_layers or ("auto" if gpus else "0")),
    )
    work = cache_root() / "pick"
    work.mkdir(parents=True, exist_ok=True)
    with long_bar("files") as progress:
        source: Source
        if model.startswith(HUB_PREFIX):
            source = HubModel(model, wanted, note, lambda what, done, total: None)
        else:
            source = LocalModel(model, wanted, work)
        picked = pick(
            source,
            limits,
            work,
            n_ctx=ctx,
            memory=given or free,
            settings=settings,
            progress=progress,
        )
    on_gpu = bool(gpus or vram)
    (_write_json if json else _show)(source, picked, limits, on_gpu)
    if picked.choice is None:
        raise Exit(1)


def _recommendation(source: Source, picked: Picked, on_gpu: bool) -> list[str]:
    """The commands that use what was picked."""
    everything = [source.reference, *source.others]
    candidate = next(each for each in everything if each.type == picked.choice)
    plan = picked.measured[candidate.type].plan
    made, named = source.commands(candidate)
    layers = plan.n_gpu_layers if on_gpu else 0
    return [*([made] if made else []), f"llama-server {named} -ngl {layers} -c {plan.n_ctx}"]


def _show(source: Source, picked: Picked, limits: Limits, on_gpu: bool) -> None:
    from reellama.gguf_tools.picking.selection import broken_limits
    from reellama.gguf_tools.sizes import show_size
    from reellama.pipeline.cli.console import note, out, strip_control
    from reellama.pipeline.cli.progress import show_table

    sizes = {candidate.type: candidate.n_bytes for candidate in (source.reference, *source.others)}
    rows = []
    for name in sizes:
        max_speed = f"{picked.predicted[name]:.1f}"
        if (measured := picked.measured.get(name)) is None:
            size = show_size(sizes[name])
            rows.append(
                [name, size, *[""] * 3, max_speed, "", "", f"not tried: {picked.skipped[name]}"]
            )
            continue
        missed = ", ".join(broken_limits(measured, limits)) or "fits"
        rows.append(
            [
                name,
                show_size(measured.n_bytes),
                f"{measured.kl.value:.5f} ± {measured.kl.error:.5f}",
                f"{measured.same_top.value:.1%}",
                f"{measured.speed.value:.1f} ± {measured.speed.error:.1f}",
                max_speed,
                show_size(measured.plan.all_bytes),
                f"{measured.plan.n_gpu_layers} of {measured.plan.n_gpu_layers_all}",
                "picked" if name == picked.choice else missed,
            ]
        )
    show_table(HEADER, rows, ["verdict"])
    note(f"{picked.n_new} measured now, {len(picked.measured) - picked.n_new} remembered")
    if picked.choice is None:
        note(f"nothing of {source.name} keeps all limits: loosen one of them")
        return
    plan = picked.measured[picked.choice].plan
    longest = f"; up to {plan.max_n_ctx:,} positions would fit" if plan.max_n_ctx else ""
    commands = "\n".join(f"    {line}" for line in _recommendation(source, picked, on_gpu))
    words = f"\nUse {picked.choice}{longest}:\n\n{strip_control(commands)}"
    out.print(words, markup=False, soft_wrap=True)


def _write_json(source: Source, picked: Picked, limits: Limits, on_gpu: bool) -> None:
    import sys
    from dataclasses import asdict
    from json import dumps

    from reellama.gguf_tools.measuring.divergence import Estimate
    from reellama.gguf_tools.picking.selection import broken_limits

    rows = [
        {
            key: value._asdict() if isinstance(value, Estimate) else value
            for key, value in vars(measured).items()
            if key != "plan"
        }
        | {"plan": asdict(measured.plan), "misses": broken_limits(measured, limits)}
        for measured in picked.measured.values()
    ]
    commands = _recommendation(source, picked, on_gpu) if picked.choice else []
    data = {
        "choice": picked.choice,
        "commands": commands,
        "measured": rows,
        "skipped": picked.skipped,
        "predicted": picked.predicted,
        "n_new": picked.n_new,
    }
    sys.stdout.write(dumps(data, indent=2) + "\n")
