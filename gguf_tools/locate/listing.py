"""The models on this machine, each with a summary of its header, and with its mmproj."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.format.mmproj_header import has_builtin_tower, is_mmproj, mmproj_header
from reellama.gguf_tools.format.model_summary import quantization
from reellama.gguf_tools.format.reader import GGUFFile, read_gguf
from reellama.gguf_tools.locate import find
from reellama.gguf_tools.locate.naming import is_mmproj_name, quant_of
from reellama.gguf_tools.locate.stores import StoredModel
from reellama.gguf_tools.locate.vision_models import mmproj_of, why_no_mmproj


@dataclass(frozen=True)
class ListedModel:
    """A model. Fields that its header lacks are None.

    Attributes:
        name: for `find.resolve`.
        source: see `StoredModel`.
        path: of its file, or of the first one of a split model.
        n_bytes: of all its files.
        problem: why it cannot be used, or None.
        is_mmproj: whether the file is an mmproj, not an LLM.
        mmproj: the mmproj of an LLM, or None.
        vision: the projector's family, such as "idefics3", of the mmproj or of this file itself.
        vision_problem: why an LLM with a vision encoder in Ollama's format cannot use it.
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
    is_mmproj: bool = False
    mmproj: Path | None = None
    vision: str | None = None
    vision_problem: str | None = None


def list_models() -> list[ListedModel]:
    """Return all models on this machine, without mmproj files."""
    return [model for model in list_files() if not model.is_mmproj]


def list_files() -> list[ListedModel]:
    """Return all models and mmproj files on this machine, with their headers read."""
    return [describe_model(model) for model in find.stored_models()]


def describe_model(model: StoredModel) -> ListedModel:
    """Sum up one model. Damaged and missing files are reported in `problem`, not raised."""
    n_bytes = sum(part.stat().st_size for part in model.parts if part.exists())
    try:
        find.resolve(model.path)
        files = [read_gguf(part) for part in model.parts]
    except GGUFError as error:
        return ListedModel(
            *(model.name, model.source, model.path, n_bytes),
            problem=str(error),
            is_mmproj=is_mmproj_name(model.label),
        )
    first = files[0]
    mmproj = _mmproj(replace(first, size=n_bytes))
    quant = quantization(first)
    architecture = first.metadata.get("general.architecture")
    n_ctx = first.metadata.get(f"{architecture}.context_length")
    return ListedModel(
        model.name,
        model.source,
        model.path,
        n_bytes,
        quantization=quant_of(model.label) if quant == "unknown" else quant,
        architecture=architecture if isinstance(architecture, str) else None,
        n_parameters=sum(t.n_elements for file in files for t in file.tensors.values()),
        n_ctx_train=n_ctx if isinstance(n_ctx, int) else None,
        is_mmproj=is_mmproj(first.metadata),
        mmproj=mmproj,
        vision=_family(first.path if is_mmproj(first.metadata) else mmproj),
        vision_problem=(
            why_no_mmproj(first) if mmproj is None and has_builtin_tower(first) else None
        ),
    )


def unpaired_mmprojs(files: Sequence[ListedModel]) -> list[ListedModel]:
    """Return the mmproj files of folders in which no LLM was paired with one."""
    used = {entry.mmproj.parent for entry in files if entry.mmproj}
    return [
        entry
        for entry in files
        if entry.is_mmproj and not entry.problem and entry.path.parent not in used
    ]


def _mmproj(file: GGUFFile) -> Path | None:
    """The mmproj of an LLM; None for an LLM without one and for other files."""
    try:
        return None if is_mmproj(file.metadata) else mmproj_of(file)
    except GGUFError:  # no LLM, such as an adapter
        return None


def _family(mmproj: Path | None) -> str | None:
    try:
        return mmproj_header(read_gguf(mmproj)).projector_type or None if mmproj else None
    except GGUFError:
        return None
