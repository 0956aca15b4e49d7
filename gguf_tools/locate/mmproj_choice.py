"""Choose among the mmproj files of a folder or repository: by name, then by type and size."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import PurePath, PurePosixPath
from typing import TypeVar

from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.locate.naming import QUANT_PATTERN, is_mmproj_name, quant_of

T = TypeVar("T")

# Vision encoders are small and lose much by quantization, so 16-bit types come first. F32 has twice
# the size but no more information, since models are trained in 16 bits.
MMPROJ_PREFERENCE = ("F16", "BF16", "F32", "Q8_0")
NO_MMPROJ = "none"
# Words of file names that do not identify a model, and numbers of parts.
EMPTY_WORDS = re.compile(r"mmproj|model|gguf|of|\d{5}")


def name_words(name: str) -> frozenset[str]:
    """Return the words of a file's name that identify its model.

    >>> sorted(name_words("mmproj-SmolVLM2-2.2B-Instruct-Q8_0.gguf"))
    ['2', '2b', 'instruct', 'smolvlm2']
    """
    stem = QUANT_PATTERN.sub(" ", PurePath(name).name.lower().removesuffix(".gguf"))
    return frozenset(w for w in re.split(r"[\W_]+", stem) if w and not EMPTY_WORDS.fullmatch(w))


def belongs_to(mmproj: str, model: str, others: Iterable[str]) -> bool:
    """Whether an mmproj's name fits none of the other models' names better than `model`.

    A name without a model, such as "mmproj-F16.gguf", fits all.
    """
    words = name_words(mmproj)
    shared = len(words & name_words(model))
    return not words or all(len(words & name_words(other)) <= shared for other in others)


def by_preference(mmprojs: Iterable[T], model: str, name: Callable[[T], str]) -> list[T]:
    """Order mmprojs by the words that their names share with the model's, then by preferred type.

    name: returns the file name of an mmproj.
    """
    own = name_words(model)

    def sort_key(mmproj: T) -> tuple[int, int, int, str]:
        words, quant = name_words(name(mmproj)), quant_of(name(mmproj))
        types = len(MMPROJ_PREFERENCE)
        rank = MMPROJ_PREFERENCE.index(quant) if quant in MMPROJ_PREFERENCE else types
        return -len(words & own), len(words - own), rank, name(mmproj)

    return sorted(mmprojs, key=sort_key)


def first_that_fits(ordered: list[T], size: Callable[[T], int], room: int) -> T | None:
    """Return the first item of at most `room` bytes, else the smallest; None for an empty list."""
    return next(
        (item for item in ordered if size(item) <= room), min(ordered, key=size, default=None)
    )


def choose_mmprojs(names: Iterable[str], model: str, type_: str, where: str) -> list[str]:
    """Return the mmproj files for a model of a repository, the best one first.

    Args:
        names: paths of all files in the repository.
        model: path of the model's file.
        type_: such as "f16"; "none" for no mmproj, or "" for any type.
        where: the repository, for messages.

    Raises:
        GGUFError: the repository has no mmproj of the type.
    """
    if type_.lower() == NO_MMPROJ or is_mmproj_name(model):
        return []
    mmprojs = [name for name in names if name.lower().endswith(".gguf") and is_mmproj_name(name)]
    folder = PurePosixPath(model).parent
    beside = [name for name in mmprojs if PurePosixPath(name).parent == folder]
    ordered = by_preference(beside or mmprojs, model, lambda name: PurePosixPath(name).name)
    if not type_:
        return ordered
    quant = quant_of(type_)
    fitting = [name for name in ordered if quant and quant_of(name) == quant]
    if not fitting:
        hint = f"choose one of: {', '.join(ordered)}" if ordered else "it has no mmproj at all"
        raise GGUFError(f"{where} has no mmproj of type {type_}; {hint}")
    return fitting


def memory_size() -> int:
    """The size of the memory of this machine or container in bytes."""
    from reellama.gguf_tools.cgroups import usable_memory

    return usable_memory().total
