"""Choose among the mmproj files of a folder or repository: by name, then by type and size."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import PurePath, PurePosixPath
from typing import TypeVar

from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.locate.naming import QUANT_PATTERN, is_mmproj_name, quant_of

T = TypeVar("T")

# Vision encoders are small and lose much by quantization, so the largest type comes first; but F32
# holds nothing that was not there in the 16 bits that models are trained in, at twice the size.
MMPROJ_PREFERENCE = ("F16", "BF16", "F32", "Q8_0")
NO_MMPROJ = "none"
# Words of file names that say nothing of whose file it is, and the parts of a split model.
EMPTY_WORDS = re.compile(r"mmproj|model|gguf|of|\d{5}")


def name_words(name: str) -> frozenset[str]:
    """Return the words of a file's name that say which model it belongs to.

    >>> sorted(name_words("mmproj-SmolVLM2-2.2B-Instruct-Q8_0.gguf"))
    ['2', '2b', 'instruct', 'smolvlm2']
    """
    stem = QUANT_PATTERN.sub(" ", PurePath(name).name.lower().removesuffix(".gguf"))
    return frozenset(w for w in re.split(r"[\W_]+", stem) if w and not EMPTY_WORDS.fullmatch(w))


def belongs_to(mmproj: str, model: str, others: Iterable[str]) -> bool:
    """Whether an mmproj's name fits no other model's better than this one's.

    A name such as "mmproj-F16.gguf" says nothing and fits all.
    """
    words = name_words(mmproj)
    shared = len(words & name_words(model))
    return not words or all(len(words & name_words(other)) <= shared for other in others)


def by_preference(mmprojs: Iterable[T], model: str, name: Callable[[T], str]) -> list[T]:
    """Order mmprojs: the name that shares most with the model's, then the largest type."""
    own = name_words(model)

    def sort_key(mmproj: T) -> tuple[int, int, int, str]:
        words, quant = name_words(name(mmproj)), quant_of(name(mmproj))
        types = len(MMPROJ_PREFERENCE)
        rank = MMPROJ_PREFERENCE.index(quant) if quant in MMPROJ_PREFERENCE else types
        return -len(words & own), len(words - own), rank, name(mmproj)

    return sorted(mmprojs, key=sort_key)


def first_that_fits(ordered: list[T], size: Callable[[T], int], room: int) -> T | None:
    """Return the first one of at most `room` bytes, or else the smallest; None where none is."""
    return next(
        (each for each in ordered if size(each) <= room), min(ordered, key=size, default=None)
    )


def choose_mmprojs(names: Iterable[str], model: str, wanted: str, where: str) -> list[str]:
    """Return the mmproj files that go with a repository's file `model`, the best one first.

    Args:
        names: of all its files, with their folders.
        wanted: a type, such as "f16", "none" for no mmproj, or "" for any.
        where: the repository, for what is said of it.

    Raises GGUFError, with what there is, when the wanted type is not.
    """
    if wanted.lower() == NO_MMPROJ or is_mmproj_name(model):
        return []
    found = [name for name in names if name.lower().endswith(".gguf") and is_mmproj_name(name)]
    folder = PurePosixPath(model).parent
    beside = [name for name in found if PurePosixPath(name).parent == folder]
    ordered = by_preference(beside or found, model, lambda name: PurePosixPath(name).name)
    if not wanted:
        return ordered
    exact = quant_of(wanted)
    fitting = [name for name in ordered if exact and quant_of(name) == exact]
    if not fitting:
        hint = f"choose one of: {', '.join(ordered)}" if ordered else "it has no mmproj at all"
        raise GGUFError(f"{where} has no mmproj of type {wanted}; {hint}")
    return fitting


def memory_size() -> int:
    """Bytes of memory of this machine, which an LLM and its mmproj are to fit into."""
    import psutil

    return int(psutil.virtual_memory().total)
