"""The models on this machine, with a summary of each header."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.format.model_summary import quantization
from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.locate import find
from reellama.gguf_tools.locate.naming import quant_of
from reellama.gguf_tools.locate.stores import StoredModel


@dataclass(frozen=True)
class ListedModel:
    """One model; fields that its header lacks are None.

    Attributes:
        name: what to type for it wherever a model is taken.
        path: its file, or the first one of its parts.
        n_bytes: of all its files.
        problem: why it cannot be used, or None.
    """

    name: str
    source: str
    path: Path
    n_bytes: int
    quantization: str | None = None
    architecture: str | None = None
    n_parameters: int | None = None
    n_ctx_train: int | None = None
    problem: str | None = None


def list_models() -> list[ListedModel]:
    """Return every model that `find.list_models` finds; the header of each file is read."""
    return [describe_model(model) for model in find.list_models()]


def describe_model(model: StoredModel) -> ListedModel:
    """Sum up one model. Damaged and missing files are reported in `problem`, not raised."""
    n_bytes = sum(part.stat().st_size for part in model.parts if part.exists())
    try:
        find.resolve(model.path)
        files = [read_gguf(part) for part in model.parts]
    except GGUFError as error:
        return ListedModel(model.name, model.source, model.path, n_bytes, problem=str(error))
    first = files[0]
    said = quantization(first)
    architecture = first.metadata.get("general.architecture")
    n_ctx = first.metadata.get(f"{architecture}.context_length")
    return ListedModel(
        model.name,
        model.source,
        model.path,
        n_bytes,
        quantization=quant_of(model.label) if said == "unknown" else said,
        architecture=architecture if isinstance(architecture, str) else None,
        n_parameters=sum(t.n_elements for file in files for t in file.tensors.values()),
        n_ctx_train=n_ctx if isinstance(n_ctx, int) else None,
    )
