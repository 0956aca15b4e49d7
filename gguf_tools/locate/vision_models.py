"""Find the mmproj of an LLM, in the stores of several programs.

    model = resolve_vision("hf:ggml-org/SmolVLM2-500M-Video-Instruct-GGUF")
    model.llm, model.mmproj

The mmproj is in the LLM's folder (also in LM Studio's), in the same repository of the hub's cache,
or in the same manifest of Ollama.
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
    """The files of an LLM and of its mmproj, which may be the same file."""

    llm: Path
    mmproj: Path


def resolve_vision(name: str | Path, mmproj: str | Path | None = None) -> VisionModel:
    """Return the files of a vision model.

    name, mmproj: for `find.resolve`; None for the mmproj that `find_mmproj` finds. Raises GGUFError
    if there is no mmproj, or if it cannot be used with the LLM.
    """
    llm = find.resolve(name)
    file = read_model(llm)
    if is_mmproj(file.metadata):
        raise GGUFError(f"{llm} is an mmproj; give its LLM, and this file with --mmproj")
    if mmproj is not None:
        path = find.resolve(mmproj)
        check_mmproj(file, read_gguf(path))
        return VisionModel(llm, path)
    if paired := mmproj_of(file):
        return VisionModel(llm, paired)
    raise GGUFError(why_no_mmproj(file))


def find_mmproj(llm: Path, memory: int | None = None) -> Path | None:
    """Return the mmproj of an LLM's file, or None.

    Among those as wide as the LLM's embeddings, it prefers the name most like the LLM's, then the
    largest type that fits into `memory` bytes (default: this machine's) together with the LLM.
    Raises GGUFError for an LLM that cannot be read.
    """
    return mmproj_of(read_model(llm), memory)


def mmproj_of(llm: GGUFFile, memory: int | None = None) -> Path | None:
    """As `find_mmproj`, for a header that was read already."""
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
    """The mmproj files in Ollama's manifest of an LLM, or beside the LLM if their names do not
    belong to another model."""
    in_manifests = [model.mmproj for model in stores.ollama_models() if _is_same(model.path, llm)]
    if recorded := [path for path in in_manifests if path is not None]:
        return recorded
    near = [path for path in stores.neighbours(llm) if not _is_same(path, llm)]
    mmprojs = [path for path in near if is_mmproj_file(path)]
    other_models = [path.name for path in near if path not in mmprojs]
    return [path for path in mmprojs if belongs_to(path.name, llm.name, other_models)]


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


def _is_same(a: Path, b: Path) -> bool:
    return os.path.realpath(a) == os.path.realpath(b)
