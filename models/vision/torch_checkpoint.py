"""Tensors of a checkpoint in torch's first format, as numpy arrays, without torch.

Such a file is a row of pickles (a magic number, the format's version, facts of the machine, the
state dict, the storages' keys), then each storage: its length as int64, and its numbers. The state
dict names functions of torch, none of which is called: those that a state dict needs have a
stand-in here, and all others are refused. Written from the format as torch.load reads it
(torch/serialization.py, `_legacy_load`).
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from reellama.gguf_tools.errors import ReellamaError

MAGIC = 0x1950A86A20F9469CFC6C
# The storages of a state dict, by their names in torch.
TYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
LENGTH_BYTES = 8  # before each storage


class _Stored(NamedTuple):
    """Where a tensor's numbers are: in which storage, from which number on, how far apart."""

    key: str
    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _StateDict(pickle.Unpickler):
    """Reads a state dict; `types` has the type of each storage that it meets."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.types: dict[str, np.dtype[Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if name == "OrderedDict":
            return OrderedDict
        if name == "_rebuild_tensor_v2":
            return _rebuild
        if name in TYPES:
            return TYPES[name]
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a state dict")

    def persistent_load(self, pid: Any) -> str:
        _, kind, key, *_ = pid
        self.types[key] = kind
        return str(key)


def _rebuild(
    key: str, first: int, shape: Sequence[int], strides: Sequence[int], *_: object
) -> _Stored:
    return _Stored(key, first, tuple(shape), tuple(strides))


def last_tensors(path: Path, count: int) -> list[np.ndarray]:
    """The last `count` tensors of the state dict in a file, in its order.

    Raises ReellamaError for any other file.
    """
    try:
        with open(path, "rb") as file:
            if pickle.load(file) != MAGIC:
                raise ValueError("not a checkpoint of torch")
            pickle.load(file), pickle.load(file)
            reader = _StateDict(file)
            wanted = list(reader.load().values())[-count:]
            starts = _storages(file, pickle.load(file), reader.types)
            return [_read(file, tensor, starts, reader.types) for tensor in wanted]
    except (OSError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise ReellamaError(
            f"{path}: not a checkpoint as torch once wrote them: {error}"
        ) from error


def _storages(
    file: IO[bytes], keys: Sequence[str], types: dict[str, np.dtype[Any]]
) -> dict[str, int]:
    """Where the numbers of each storage begin, in bytes."""
    starts = {}
    for key in keys:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        starts[key] = file.tell()
        file.seek(length * types[key].itemsize, 1)
    return starts


def _read(
    file: IO[bytes], tensor: _Stored, starts: dict[str, int], types: dict[str, np.dtype[Any]]
) -> np.ndarray:
    kind = types[tensor.key]
    file.seek(starts[tensor.key] + tensor.first * kind.itemsize)
    steps = zip(tensor.shape, tensor.strides, strict=True)
    count = 1 + sum((n - 1) * stride for n, stride in steps)
    numbers = np.frombuffer(file.read(count * kind.itemsize), kind, count)
    strides = [stride * kind.itemsize for stride in tensor.strides]
    # A copy: its rows lie in a row, and it can be written.
    return np.array(np.lib.stride_tricks.as_strided(numbers, tensor.shape, strides), order="C")
