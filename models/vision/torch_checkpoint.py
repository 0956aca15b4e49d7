"""Read tensors from a checkpoint in torch's legacy format into NumPy arrays, without torch.

Such a file is a sequence of pickles (a magic number, the format's version, facts about the machine,
the state dict, the keys of the storages), followed by each storage: its length as int64, and its
values. The pickle of the state dict names functions of torch. Stand-ins replace those that a state
dict needs, and all others are refused, so that no code of the file runs. The format is that of
`_legacy_load` in torch/serialization.py.
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
# torch's class of a storage -> its dtype.
STORAGE_TYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
LENGTH_BYTES = 8  # of the length before each storage


class _TensorView(NamedTuple):
    """A tensor as a view of a storage; offset and strides count values."""

    key: str  # of the storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _StateDictUnpickler(pickle.Unpickler):
    """Unpickles a state dict to `_TensorView`s; `types` are the dtypes of the storages by key."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.types: dict[str, np.dtype[Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if name == "OrderedDict":
            return OrderedDict
        if name == "_rebuild_tensor_v2":
            return _rebuild
        if name in STORAGE_TYPES:
            return STORAGE_TYPES[name]
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a state dict")

    def persistent_load(self, pid: Any) -> str:
        _, dtype, key, *_ = pid
        self.types[key] = dtype
        return str(key)


def _rebuild(
    key: str, offset: int, shape: Sequence[int], strides: Sequence[int], *_: object
) -> _TensorView:
    return _TensorView(key, offset, tuple(shape), tuple(strides))


def last_tensors(path: Path, count: int) -> list[np.ndarray]:
    """The last `count` tensors of the state dict in a file, in the state dict's order.

    Raises ReellamaError for a file in another format.
    """
    try:
        with open(path, "rb") as file:
            if pickle.load(file) != MAGIC:
                raise ValueError("not a checkpoint of torch")
            pickle.load(file), pickle.load(file)
            unpickler = _StateDictUnpickler(file)
            tensors = list(unpickler.load().values())[-count:]
            starts = _storage_starts(file, pickle.load(file), unpickler.types)
            return [_read_tensor(file, tensor, starts, unpickler.types) for tensor in tensors]
    except (OSError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise ReellamaError(
            f"{path}: not a checkpoint as torch once wrote them: {error}"
        ) from error


def _storage_starts(
    file: IO[bytes], keys: Sequence[str], types: dict[str, np.dtype[Any]]
) -> dict[str, int]:
    """The position in the file, in bytes, at which the values of each storage begin."""
    starts = {}
    for key in keys:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        starts[key] = file.tell()
        file.seek(length * types[key].itemsize, 1)
    return starts


def _read_tensor(
    file: IO[bytes], tensor: _TensorView, starts: dict[str, int], types: dict[str, np.dtype[Any]]
) -> np.ndarray:
    dtype = types[tensor.key]
    file.seek(starts[tensor.key] + tensor.offset * dtype.itemsize)
    steps = zip(tensor.shape, tensor.strides, strict=True)
    count = 1 + sum((n - 1) * stride for n, stride in steps)
    values = np.frombuffer(file.read(count * dtype.itemsize), dtype, count)
    strides = [stride * dtype.itemsize for stride in tensor.strides]
    # A contiguous, writable copy.
    return np.array(np.lib.stride_tricks.as_strided(values, tensor.shape, strides), order="C")
