"""Read tensors from a Hugging Face folder of safetensors files, by rows and without torch.

Format: https://github.com/huggingface/safetensors#format. A file has the length of a JSON header,
the header, which gives the dtype, shape and offsets of each tensor, and the data. A large model has
several files (shards), which `model.safetensors.index.json` names.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reellama.gguf_tools.conversion.hf_folder import read_json, reporting_damage
from reellama.gguf_tools.errors import ReellamaError

MODEL = "model.safetensors"
INDEX = MODEL + ".index.json"
MAX_HEADER = 100 << 20  # bytes, the limit of the safetensors library
# Numpy has no bfloat16: its bits are the upper half of a float32's.
NUMPY_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True)
class HFTensor:
    """One tensor's entry in the header of a safetensors file."""

    name: str
    path: Path
    dtype: str  # safetensors' name, such as "BF16"
    shape: tuple[int, ...]  # in torch's order: the length of a row last
    offset: int  # of its first byte, from the start of the file
    n_bytes: int


def read_tensors(folder: Path) -> dict[str, HFTensor]:
    """Return the entries of all tensors of a folder by name, without reading their data.

    Raises ReellamaError if there are none, a shard is missing, or a file is truncated or damaged.
    """
    tensors: dict[str, HFTensor] = {}
    for path in _files(folder):
        tensors |= read_header(path)
    return tensors


def read_header(path: Path) -> dict[str, HFTensor]:
    """Return the entries of all tensors of a safetensors file by name; all lie inside the file.

    Raises ReellamaError for a file that is truncated, damaged, or not in this format.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        n_header = int.from_bytes(file.read(8), "little")
        if size < 8 or n_header > MAX_HEADER:
            raise ReellamaError(f"{path} is not a safetensors file, or damaged; download it again")
        header = file.read(n_header)
    if len(header) < n_header:
        raise _cut_off(path)
    with reporting_damage(path):
        tensors = {
            name: _tensor(path, name, entry, 8 + n_header)
            for name, entry in json.loads(header).items()
            if name != "__metadata__"
        }
    if any(tensor.offset + tensor.n_bytes > size for tensor in tensors.values()):
        raise _cut_off(path)
    return tensors


def read_rows(tensor: HFTensor, rows: np.ndarray, transposed: bool = False) -> np.ndarray:
    """Return rows of a tensor, or elements of a vector, as float32 `[len(rows), ...]`.

    transposed: whether `rows` are columns of a matrix, which is transposed.
    """
    data: np.ndarray = np.memmap(
        tensor.path, NUMPY_TYPES[tensor.dtype], "r", tensor.offset, tensor.shape
    )
    chosen = np.ascontiguousarray(data[:, rows].T) if transposed else data[rows]
    if tensor.dtype == "BF16":
        return (chosen.astype(np.uint32) << 16).view(np.float32)
    return chosen.astype(np.float32)


def _files(folder: Path) -> list[Path]:
    if (folder / INDEX).is_file():
        shards = read_json(folder / INDEX).get("weight_map")
        if not isinstance(shards, Mapping) or not shards:
            raise ReellamaError(f"{folder / INDEX} is damaged: it names no shards")
        names = sorted({str(name) for name in shards.values()})
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ReellamaError(
                f"{folder} lacks {len(missing)} of {len(names)} shards: {missing[0]}"
                f"{' and others' if missing[1:] else ''}; download it again"
            )
        return [folder / name for name in names]
    if (folder / MODEL).is_file():
        return [folder / MODEL]
    hint = "download the model again"
    if any(folder.glob("*.bin")) or any(folder.glob("*.pth")):
        load = "AutoModelForCausalLM.from_pretrained(...)"
        hint = f"save it as safetensors first, with transformers: {load}.save_pretrained(...)"
    raise ReellamaError(f"{folder} has no {MODEL}; {hint}")


def _tensor(path: Path, name: str, entry: Mapping[str, Any], start: int) -> HFTensor:
    """A tensor's entry. Raises ValueError or another of the errors of `reporting_damage`."""
    shape = tuple(entry["shape"])
    first, end = entry["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, first, end)):
        raise ValueError(f"no such place for {name}")
    dtype = str(entry["dtype"])
    numpy_type = NUMPY_TYPES.get(dtype)
    n_bytes = math.prod(shape) * np.dtype(numpy_type).itemsize if numpy_type else end - first
    if end < first or n_bytes != end - first:
        raise ValueError(f"not the size of {name}")
    return HFTensor(name, path, dtype, shape, start + first, end - first)


def _cut_off(path: Path) -> ReellamaError:
    return ReellamaError(f"{path} is cut off; download it again")
