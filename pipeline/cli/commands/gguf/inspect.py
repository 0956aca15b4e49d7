"""`reellama gguf inspect`: what a GGUF file holds, and how two differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

if TYPE_CHECKING:
    from reellama.gguf_tools.format.reader import GGUFFile


def command(
    model: Annotated[str, Argument(metavar="MODEL", help="A GGUF file, or a model's name.")],
    tensors: Annotated[
        bool, Option("--tensors", help="List every tensor: name, shape, type and size.")
    ] = False,
    diff: Annotated[
        str | None, Option(metavar="OTHER", help="Say how another file differs from this one.")
    ] = None,
    json: Annotated[bool, Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Say what a GGUF file holds. Only its header is read, and nothing in it is believed."""
    from reellama.gguf_tools.format.split_files import read_model
    from reellama.gguf_tools.locate.find import resolve

    file = read_model(resolve(model))
    other = read_model(resolve(diff)) if diff else None
    if json:
        _write_json(file, other, tensors=tensors)
    elif other:
        _show_diff(file, other, tensors=tensors)
    else:
        _show(file, tensors=tensors)


def _write_json(file: GGUFFile, other: GGUFFile | None, *, tensors: bool) -> None:
    import json
    import sys
    from dataclasses import asdict

    from reellama.gguf_tools.format.mmproj_header import is_mmproj
    from reellama.gguf_tools.inspection.diff import diff
    from reellama.gguf_tools.inspection.file_summary import (
        metadata_json,
        summarize_file,
        tensor_json,
    )
    from reellama.gguf_tools.inspection.mmproj_summary import summarize_mmproj

    if other:
        data = {"one": str(file.path), "other": str(other.path), **diff(file, other).to_json()}
    else:
        data = {**asdict(summarize_file(file)), "metadata": metadata_json(file)}
        if is_mmproj(file.metadata):
            data["mmproj"] = {**asdict(summarize_mmproj(file)), "llms": _llms(file)}
        if tensors:
            data["tensors"] = [tensor_json(tensor) for tensor in file.tensors.values()]
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _llms(mmproj: GGUFFile) -> list[str]:
    """The names of the LLMs on this machine that are as wide as an mmproj's tokens."""
    from reellama.gguf_tools.format.mmproj_header import mmproj_header
    from reellama.gguf_tools.locate.vision_models import llms_for_mmproj

    return [model.name for model in llms_for_mmproj(mmproj_header(mmproj))]


def _show(file: GGUFFile, *, tensors: bool) -> None:
    from reellama.gguf_tools.format.mmproj_header import is_mmproj
    from reellama.gguf_tools.inspection.file_summary import summarize_file
    from reellama.pipeline.cli.commands.gguf import inspect_tables as tables

    facts = summarize_file(file)
    parts = [tables.summary(facts), tables.types(facts), tables.metadata(file)]
    if is_mmproj(file.metadata):
        from reellama.gguf_tools.inspection.mmproj_summary import summarize_mmproj
        from reellama.pipeline.cli.commands.gguf.mmproj_table import mmproj

        parts.insert(1, mmproj(summarize_mmproj(file), _llms(file)))
    if tensors:
        parts.append(tables.tensors(file))
    tables.show(*parts)


def _show_diff(file: GGUFFile, other: GGUFFile, *, tensors: bool) -> None:
    from reellama.gguf_tools.inspection.diff import diff
    from reellama.pipeline.cli.commands.gguf import inspect_tables as tables

    difference = diff(file, other)
    parts = [tables.files(file, other)]
    if difference.metadata:
        parts.append(tables.changed_metadata(difference))
    if difference.tensors:
        parts.append(tables.changed_tensors(difference, each=tensors))
    same = f"{difference.n_same_keys} keys and {difference.n_same_tensors} tensors (type and shape)"
    ends = f"The same in both: {same}." if difference else f"No difference: {same} are the same."
    tables.show(*parts, ends)
