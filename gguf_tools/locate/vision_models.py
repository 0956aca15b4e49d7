"""Pair an LLM with its mmproj, wherever a program keeps them.

    model = resolve_vision("hf:ggml-org/SmolVLM2-500M-Video-Instruct-GGUF")
    model.llm, model.mmproj

The mmproj lies beside the LLM in its folder (LM Studio's too), in the same repository of the hub's
cache, or in the same manifest of Ollama's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.format.mmproj_checks import (
    check_mmproj,
    is_same_width,
    mmproj_problems,
)
from reellama.gguf_tools.format.mmproj_header import (
    MmprojHeader,
    has_builtin_tower,
    is_mmproj,
    is_mmproj_file,
    mmproj_header,
)
from reellama.gguf_tools.format.reader import GGUFFile, read_gguf
from reellama.gguf_tools.format.split_files import read_model
from reellama.gguf_tools.locate import find, stores
from reellama.gguf_tools.locate.mmproj_choice import (
    belongs_to,
    by_preference,
    first_that_fits,
    memory_size,
)
from reellama.gguf_tools.locate.stores import StoredModel


@dataclass(frozen=True)
class VisionModel:
    """An LLM and its mmproj; both are one file where that holds both."""

    llm: Path
    mmproj: Path


def resolve_vision(name: str | Path, mmproj: str | Path | None = None) -> VisionModel:
    """Return the two files of the vision model that `name` means.

    `name` and `mmproj` are what `find.resolve` takes; without `mmproj` the one that belongs to the
    LLM is found. Raises GGUFError, in one line, where there is none or it cannot see for this LLM.
    """
    llm = find.resolve(name)
    file = read_model(llm)
    if is_mmproj(file.metadata):
        raise GGUFError(f"{llm} is an mmproj; give its LLM, and this file with --mmproj")
    if mmproj is not None:
        path = find.resolve(mmproj)
        check_mmproj(file, read_gguf(path))
        return VisionModel(llm, path)
    if found := mmproj_of(file):
        return VisionModel(llm, found)
    raise GGUFError(why_no_mmproj(file))


def find_mmproj(llm: Path, memory: int | None = None) -> Path | None:
    """Return the mmproj that belongs to an LLM's file, None for an LLM without one.

    Of several it is the one as wide as the LLM's embeddings, then the one whose name shares most
    with the LLM's, then the largest type that fits into `memory` bytes (this machine's) with the
    LLM. Raises GGUFError for an LLM that cannot be read.
    """
    return mmproj_of(read_model(llm), memory)


def mmproj_of(llm: GGUFFile, memory: int | None = None) -> Path | None:
    """Do as `find_mmproj`, for a header that was read already."""
    if mmproj_header(llm).has_vision and not mmproj_problems(llm):
        return llm.path
    fitting = [file for file in _readable(_candidates(llm.path)) if _fits_llm(file, llm)]
    ordered = by_preference(fitting, llm.path.name, lambda file: file.path.name)
    room = (memory_size() if memory is None else memory) - llm.size
    chosen = first_that_fits(ordered, lambda file: file.size, room)
    return chosen.path if chosen else None


def why_no_mmproj(llm: GGUFFile) -> str:
    """Say, in one line, why no mmproj was found for an LLM."""
    for path in _candidates(llm.path):
        try:
            check_mmproj(llm, read_gguf(path))
        except GGUFError as error:
            return str(error)
    if has_builtin_tower(llm):
        return (
            f"{llm.path} holds its vision encoder in Ollama's own form, which llama.cpp does not "
            "read; pull the model from the hub, with an mmproj: reellama gguf pull OWNER/REPO"
        )
    return (
        f"{llm.path} has no mmproj, so it cannot see: none that fits is beside it; give one with "
        "--mmproj, or pull a model that has one: reellama gguf pull OWNER/REPO"
    )


def llms_for_mmproj(mmproj: MmprojHeader) -> list[StoredModel]:
    """Return the LLMs on this machine whose embeddings are as wide as a projector's tokens."""
    return [model for model in find.stored_models() if _is_llm_of(model, mmproj)]


def _candidates(llm: Path) -> list[Path]:
    """The mmproj files that lie where this LLM's would, and by their names are not another's."""
    named = [model.mmproj for model in stores.ollama_models() if _is_same(model.path, llm)]
    if told := [path for path in named if path is not None]:
        return told
    near = [path for path in stores.neighbours(llm) if not _is_same(path, llm)]
    mmprojs = [path for path in near if is_mmproj_file(path)]
    others = [path.name for path in near if path not in mmprojs]
    return [path for path in mmprojs if belongs_to(path.name, llm.name, others)]


def _readable(paths: list[Path]) -> Iterator[GGUFFile]:
    for path in paths:
        try:
            yield read_gguf(path)
        except GGUFError:
            continue


def _fits_llm(file: GGUFFile, llm: GGUFFile) -> bool:
    try:
        check_mmproj(llm, file)
    except GGUFError:
        return False
    return True


def _is_llm_of(model: StoredModel, mmproj: MmprojHeader) -> bool:
    try:
        file = read_gguf(model.path)
        return not is_mmproj(file.metadata) and is_same_width(file, mmproj)
    except GGUFError:
        return False


def _is_same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
