"""Quantize an mmproj: the matrices of a vision or audio encoder and of its projector.

llama.cpp's quantizer chooses types as for a language model, so types are chosen here by the rules
of llama.cpp's converter (`format/mmproj_types.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from reellama.gguf_tools.errors import GGUFError, ReellamaError
from reellama.gguf_tools.format.header_writer import (
    TensorInfo,
    file_size,
    header_bytes,
    metadata_entries,
    padding,
    raw_entries,
)
from reellama.gguf_tools.format.mmproj_types import MMPROJ_TYPES, mmproj_tensor_type
from reellama.gguf_tools.format.reader import GGUFFile, Tensor
from reellama.gguf_tools.format.tensor_encoding import encode_tensor
from reellama.gguf_tools.quantization.quant_plan import QUANTIZATION_VERSION, QuantPlan

CHUNK = 4 << 20  # numbers converted at once: 16 MiB as float32


def plan_mmproj(file: GGUFFile, type_name: str) -> QuantPlan:
    """Plan an mmproj of another type.

    Raises ReellamaError for a type that no mmproj can have, and for tensors in F64.
    """
    if type_name not in MMPROJ_TYPES:
        raise ReellamaError(
            f"{file.path} is an mmproj, which becomes {', '.join(MMPROJ_TYPES)}, not {type_name}"
        )
    for tensor in file.tensors.values():
        if tensor.type == GGMLQuantizationType.F64:
            raise GGUFError(
                f"{file.path}: {tensor.name} is of type F64, which ends llama.cpp; convert the "
                "model again"
            )
    target = GGMLQuantizationType[type_name]
    tensors = []
    for tensor in file.tensors.values():
        type_ = mmproj_tensor_type(tensor.name, tensor.shape[::-1], target)
        tensors.append(
            TensorInfo(tensor.name, tensor.shape, tensor.type if type_ is None else type_)
        )
    notes = tuple(_notes(file, tensors, target))
    return QuantPlan(tuple(tensors), file_size(_metadata(file, type_name), tensors), notes)


def write_mmproj(
    file: GGUFFile,
    plan: QuantPlan,
    type_name: str,
    path: Path,
    progress: Callable[[int, int], None],
) -> None:
    """Write an mmproj as planned.

    `progress` is called with the tensors written and their total. Raises ReellamaError for values
    that are not finite or beyond the range of the type.
    """
    with path.open("wb") as output:
        output.write(header_bytes(_metadata(file, type_name), plan.tensors))
        for done, info in enumerate(plan.tensors):
            progress(done, len(plan.tensors))
            for data in _data(file, file.tensors[info.name], info.type):
                output.write(data.data)
            output.write(padding(info.n_bytes))
        progress(len(plan.tensors), len(plan.tensors))


def _metadata(file: GGUFFile, type_name: str) -> Mapping[str, bytes]:
    new = {
        "general.quantization_version": QUANTIZATION_VERSION,
        "general.file_type": int(MMPROJ_TYPES[type_name]),
    }
    return raw_entries(file.path) | metadata_entries(new)


def _data(file: GGUFFile, tensor: Tensor, type_: GGMLQuantizationType) -> Iterator[np.ndarray]:
    """A tensor's bytes in another type, some rows at a time."""
    length = tensor.shape[0] if tensor.shape else 1
    n_rows = tensor.n_elements // length
    rows: np.ndarray = np.memmap(
        file.path, np.uint8, "r", tensor.offset, (n_rows, tensor.n_bytes // n_rows)
    )
    step = max(1, CHUNK // length)
    for start in range(0, n_rows, step):
        part = rows[start : start + step]
        if type_ == tensor.type:
            yield np.ascontiguousarray(part)
            continue
        try:
            values = dequantize(part, tensor.type).astype(np.float32, copy=False)
        except NotImplementedError as error:
            raise GGUFError(
                f"{file.path}: {tensor.name} of type {tensor.type.name} cannot be read; update "
                "the package: pip install -U gguf"
            ) from error
        if not np.isfinite(values).all():
            raise GGUFError(
                f"{file.path}: {tensor.name} has numbers that are infinite or not numbers; "
                "download it again"
            )
        yield encode_tensor(f"{file.path}: {tensor.name}", values, type_)


def _notes(
    file: GGUFFile, tensors: list[TensorInfo], target: GGMLQuantizationType
) -> Iterator[str]:
    requantized = {
        old.type.name
        for old, new in zip(file.tensors.values(), tensors, strict=True)
        if old.type != new.type and GGML_QUANT_SIZES[old.type][0] > 1
    }
    if requantized:
        yield (
            f"the source is quantized already ({', '.join(sorted(requantized))}): what that lost "
            "stays lost, so quantize from F16 or F32 if you can"
        )
    n_fallback = sum(_falls_back(tensor, target) for tensor in tensors)
    if n_fallback:
        yield (
            f"{n_fallback} of {len(tensors)} tensors become F16, for their rows are no multiple of "
            f"{GGML_QUANT_SIZES[target][0]}"
        )


def _falls_back(tensor: TensorInfo, target: GGMLQuantizationType) -> bool:
    """Whether a matrix is F16 because its rows are no multiple of the target type's block."""
    return tensor.shape[0] % GGML_QUANT_SIZES[target][0] > 0 and tensor.type == (
        mmproj_tensor_type(tensor.name, tensor.shape[::-1], target)
    )
