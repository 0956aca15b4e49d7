"""`reellama gguf list`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

if TYPE_CHECKING:
    from rich.table import Table

    from reellama.gguf_tools.locate.listing import ListedModel


def command(
    json: Annotated[bool, Option("--json", help="One JSON array, for programs.")] = False,
) -> None:
    """List the GGUFs on this machine.

    They are those in our own folder, the hub's cache, Ollama's store and LM Studio's folders. The
    name in the first column is what every command takes for a model. The last column says which
    ones see, by the family of the mmproj that lies with them.
    """
    from reellama.gguf_tools.locate.listing import list_files, unpaired_mmprojs
    from reellama.pipeline.cli.console import err, note, out
    from reellama.pipeline.cli.terminal.progress_bars import Spinner

    with Spinner("[dim]reading the headers of models", console=err):
        files = list_files()
    models = [entry for entry in files if not entry.is_mmproj]
    if json:
        _write_json(models)
        return
    if not models:
        note("there is no GGUF on this machine; download one with: reellama gguf pull OWNER/REPO")
        return
    out.print(_table(models))
    for entry in files:
        if problem := entry.problem or entry.vision_problem:
            note(problem)
    for entry in unpaired_mmprojs(files):
        note(f"{entry.path} is an mmproj that no model here sees through")


def _table(models: list[ListedModel]) -> Table:
    from rich.table import Table
    from rich.text import Text

    from reellama.gguf_tools.sizes import show_size
    from reellama.pipeline.cli.console import strip_control

    names = ("name", "from", "type", "size", "architecture", "parameters", "vision")
    table = Table(*names, box=None, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"  # in a narrow terminal nothing is cut
    for number in (3, 5):
        table.columns[number].justify = "right"
    for entry in models:
        damaged = Text("damaged", "red") if entry.problem else Text("")
        table.add_row(
            Text(strip_control(entry.name)),
            entry.source,
            Text(strip_control(entry.quantization or "")),
            show_size(entry.n_bytes),
            Text(strip_control(entry.architecture)) if entry.architecture else damaged,
            _short(entry.n_parameters),
            Text(strip_control(entry.vision or "")),
        )
    return table


def _short(number: int | None) -> str:
    """135M, 1.24B: as models are named."""
    if number is None:
        return ""
    for unit, name in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return str(number)


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    """A model's entry for JSON, where all are models."""
    del entry["is_mmproj"]
    entry["blind"] = entry.pop("vision_problem")
    return {key: str(value) if isinstance(value, Path) else value for key, value in entry.items()}


def _write_json(models: list[ListedModel]) -> None:
    import json
    import sys
    from dataclasses import asdict

    data = [_plain(asdict(entry)) for entry in models]
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
