"""Write a planned GGUF: first the header, then the tensors in blocks of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from gguf import GGUFWriter

from reellama.gguf_tools.conversion.hf_tensors import read_rows
from reellama.gguf_tools.conversion.planned_tensor import PlannedTensor
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.tensor_encoding import encode_tensor

CHUNK = 4 << 20  # elements that are converted at a time, which bounds the memory
Progress = Callable[[int], None]  # bytes written since the last call


def add_tensors(writer: GGUFWriter, plan: list[PlannedTensor]) -> None:
    """Add the names, shapes and types of tensors to a header."""
    for tensor in plan:
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), tensor.n_bytes, raw_dtype=tensor.type
        )


def write_header(writer: GGUFWriter) -> int:
    """Write the header of a file; returns the alignment of the tensors' data."""
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()
    return int(writer.data_alignment)


def write_tensors(
    path: Path, plan: list[PlannedTensor], alignment: int, progress: Progress
) -> None:
    """Append the tensors' data to a file that has the header.

    Raises ReellamaError for a value that is not finite, or too large for F16.
    """
    with path.open("ab") as file:
        for tensor in plan:
            _pad(file, alignment)
            for numbers in _chunks(tensor):
                if not np.isfinite(numbers).all():
                    read = tensor.sources[0].path if tensor.sources else path
                    raise ReellamaError(
                        f"{read}: {tensor.name} has numbers that are infinite or not numbers; "
                        "download it again"
                    )
                data = encode_tensor(tensor.name, numbers, tensor.type)
                file.write(data.data)
                progress(data.nbytes)
        _pad(file, alignment)


def _pad(file: BinaryIO, alignment: int) -> None:
    file.write(bytes(-file.tell() % alignment))


def _chunks(tensor: PlannedTensor) -> Iterator[np.ndarray]:
    """A tensor's elements as float32, a block of rows at a time."""
    for source in tensor.sources or (None,):
        shape = tensor.shape if source is None else source.shape
        n_rows = shape[-1] if tensor.transposed else shape[0]
        step = max(1, CHUNK * n_rows // max(1, math.prod(shape)))
        rows = np.arange(n_rows) if tensor.rows is None else tensor.rows
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            if source is not None:
                numbers = read_rows(source, part, tensor.transposed)
            else:
                assert tensor.values is not None
                numbers = tensor.values[part]
            if tensor.frame is not None:
                numbers = numbers[:, :, tensor.frame]
            if tensor.factor != 1:
                numbers = numbers * np.float32(tensor.factor)
            yield numbers + np.float32(tensor.offset) if tensor.offset else numbers
