"""Write a planned GGUF: its header, then its tensors, some rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from gguf import GGUFWriter

from reellama.gguf_tools.conversion.hf_tensors import read_rows
from reellama.gguf_tools.conversion.tensor_plan import PlannedTensor
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.tensor_encoding import encode_tensor

CHUNK = 4 << 20  # numbers that are converted at a time, which bounds the memory
Progress = Callable[[int], None]  # bytes written since the last call


def write_header(writer: GGUFWriter, plan: list[PlannedTensor]) -> int:
    """Write the header of a file; returns the alignment of the tensors' data."""
    for tensor in plan:
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), tensor.n_bytes, raw_dtype=tensor.type
        )
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
    """Append the tensors' data to a header.

    Raises ReellamaError for a number that is not finite, or that the type cannot hold.
    """
    with path.open("ab") as file:
        for tensor in plan:
            _pad(file, alignment)
            for numbers in _chunks(tensor):
                if not np.isfinite(numbers).all():
                    raise ReellamaError(
                        f"{tensor.source.path if tensor.source else path}: {tensor.name} has "
                        "numbers that are infinite or not numbers; download it again"
                    )
                data = encode_tensor(tensor.name, numbers, tensor.type)
                file.write(data.data)
                progress(data.nbytes)
        _pad(file, alignment)


def _pad(file: BinaryIO, alignment: int) -> None:
    file.write(bytes(-file.tell() % alignment))


def _chunks(tensor: PlannedTensor) -> Iterator[np.ndarray]:
    """A tensor's numbers, a few rows at a time."""
    n_rows = tensor.shape[0]
    step = max(1, CHUNK * n_rows // max(1, int(np.prod(tensor.shape))))
    rows = np.arange(n_rows) if tensor.rows is None else tensor.rows
    for start in range(0, n_rows, step):
        part = rows[start : start + step]
        if tensor.source is not None:
            numbers = read_rows(tensor.source, part)
        else:
            assert tensor.values is not None
            numbers = tensor.values[part]
        if tensor.frame is not None:
            numbers = numbers[:, :, tensor.frame]
        yield numbers + np.float32(tensor.offset) if tensor.offset else numbers
