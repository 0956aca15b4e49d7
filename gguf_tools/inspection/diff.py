"""The differences of two GGUF files in metadata and in the types and shapes of tensors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from reellama.gguf_tools.format.reader import GGUFFile, Tensor
from reellama.gguf_tools.inspection.file_summary import json_value, tensor_json

T = TypeVar("T")


@dataclass(frozen=True)
class Change(Generic[T]):
    """A key or tensor that differs: its value in each file, None if the file lacks it."""

    name: str
    one: T | None
    other: T | None


@dataclass(frozen=True)
class Diff:
    """The differences of two files, in the order of the first file, then of the second."""

    metadata: tuple[Change[Any], ...]
    tensors: tuple[Change[Tensor], ...]
    n_same_keys: int
    n_same_tensors: int  # of the same type and shape; their data is not compared

    def __bool__(self) -> bool:
        return bool(self.metadata or self.tensors)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; of two lists only the elements where they first differ."""
        return {
            "metadata": [_metadata_json(change) for change in self.metadata],
            "tensors": [
                {
                    "name": change.name,
                    "one": tensor_json(change.one) if change.one else None,
                    "other": tensor_json(change.other) if change.other else None,
                }
                for change in self.tensors
            ],
            "n_same_keys": self.n_same_keys,
            "n_same_tensors": self.n_same_tensors,
        }


def diff(one: GGUFFile, other: GGUFFile) -> Diff:
    """Compare two headers, without the data and the offsets of tensors."""
    keys = _changes(one.metadata, other.metadata, _same)
    tensors = _changes(
        one.tensors, other.tensors, lambda a, b: (a.type, a.shape) == (b.type, b.shape)
    )
    n_keys = len(one.metadata.keys() | other.metadata.keys()) - len(keys)
    n_tensors = len(one.tensors | other.tensors) - len(tensors)
    return Diff(keys, tensors, n_keys, n_tensors)


def first_difference(one: list[Any], other: list[Any]) -> int:
    """Return the index where two lists first differ, at most the length of the shorter one."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if not _same(a, b)), min(len(one), len(other)))


def _changes(
    one: Mapping[str, T], other: Mapping[str, T], same: Callable[[T, T], bool]
) -> tuple[Change[T], ...]:
    return tuple(
        Change(name, one.get(name), other.get(name))
        for name in dict.fromkeys((*one, *other))
        if name not in one or name not in other or not same(one[name], other[name])
    )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return one == other or first_difference(one, other) == len(one)
    both_nan = one != one and other != other
    return type(one) is type(other) and (one == other or both_nan)


def _metadata_json(change: Change[Any]) -> dict[str, Any]:
    one, other = change.one, change.other
    if not isinstance(one, list) or not isinstance(other, list):
        values = (json_value(change.name, value) for value in (one, other))
        return {"key": change.name, **dict(zip(("one", "other"), values, strict=True))}
    at = first_difference(one, other)
    lists = {
        side: {"length": len(values), "at_difference": json_value("", values[at : at + 1])}
        for side, values in (("one", one), ("other", other))
    }
    return {"key": change.name, "first_difference": at, **lists}
