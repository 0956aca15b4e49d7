"""The quantization error of each tensor in a type, weighted by the tensor's inputs.

The error of a weight changes the output by the error times the input. So squared errors are
weighted by the mean square of the input, which comes from an importance matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gguf.quants import dequantize

from reellama.gguf_tools.format.header_writer import aligned_size
from reellama.gguf_tools.format.reader import GGUFFile, Tensor, read_gguf
from reellama.gguf_tools.measuring.mix_knapsack import Choice

CHUNK = 4 << 20  # elements that are compared at a time


def tensor_errors(
    source: GGUFFile, quantized: Path, weights: Mapping[str, np.ndarray]
) -> dict[str, Choice]:
    """Type, bytes and error of the tensors of a quantized file whose type differs from the source.

    weights: mean squares of inputs by tensor, float32 `[n_experts * n_inputs]`. For tensors without
    weights, all inputs count the same.
    """
    errors = {}
    for name, tensor in read_gguf(quantized).tensors.items():
        before = source.tensors[name]
        if tensor.type != before.type:
            error = _error(source.path, before, quantized, tensor, weights.get(name))
            errors[name] = Choice(tensor.type.name, aligned_size(tensor.n_bytes), error)
    return errors


def _error(
    source: Path, before: Tensor, quantized: Path, after: Tensor, weights: np.ndarray | None
) -> float:
    """The weighted sum of squared differences between two types of a tensor."""
    n_inputs = after.shape[0]
    rows_before, rows_after = _rows(source, before), _rows(quantized, after)
    by_expert = None if weights is None else weights.reshape(-1, n_inputs).astype(np.float64)
    rows_per_expert = len(rows_before) // (1 if by_expert is None else len(by_expert))
    step, total = max(1, CHUNK // n_inputs), 0.0
    for start in range(0, len(rows_before), step):
        rows = slice(start, start + step)
        squares = dequantize(rows_before[rows], before.type)
        squares = squares - dequantize(rows_after[rows], after.type)
        squares *= squares
        if by_expert is None:
            total += float(squares.sum(dtype=np.float64))
        else:
            row_weights = by_expert[np.arange(start, start + len(squares)) // rows_per_expert]
            total += float((squares * row_weights).sum(dtype=np.float64))
    return total


def _rows(path: Path, tensor: Tensor) -> np.ndarray:
    """The encoded rows of a tensor, uint8 `[n_rows, bytes of a row]`."""
    n_rows = tensor.n_elements // tensor.shape[0]
    return np.memmap(path, np.uint8, "r", tensor.offset, (n_rows, tensor.n_bytes // n_rows))
