"""How far each tensor is from the source's in each type, weighted by what comes into it.

A weight's error changes the output by itself times its input, so squares of errors count by the
mean square of the input, which an importance matrix has.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gguf.quants import dequantize

from reellama.gguf_tools.format.header_writer import aligned_size
from reellama.gguf_tools.format.reader import GGUFFile, Tensor, read_gguf
from reellama.gguf_tools.measuring.mix_knapsack import Choice

CHUNK = 4 << 20  # numbers that are compared at a time


def tensor_errors(
    source: GGUFFile, made: Path, weights: Mapping[str, np.ndarray]
) -> dict[str, Choice]:
    """The tensors of a quantized file that differ in type from the source's, each with its type,
    bytes and error. `weights` are mean squares of inputs, float32 `[n_experts x n_inputs]`; tensors
    that it lacks count all inputs alike.
    """
    found = {}
    for name, tensor in read_gguf(made).tensors.items():
        before = source.tensors[name]
        if tensor.type != before.type:
            error = _error(source.path, before, made, tensor, weights.get(name))
            found[name] = Choice(tensor.type.name, aligned_size(tensor.n_bytes), error)
    return found


def _error(
    source: Path, before: Tensor, made: Path, after: Tensor, weights: np.ndarray | None
) -> float:
    n_inputs = after.shape[0]
    one, other = _rows(source, before), _rows(made, after)
    by_expert = None if weights is None else weights.reshape(-1, n_inputs).astype(np.float64)
    rows_each = len(one) // (1 if by_expert is None else len(by_expert))
    step, total = max(1, CHUNK // n_inputs), 0.0
    for start in range(0, len(one), step):
        rows = slice(start, start + step)
        squares = dequantize(one[rows], before.type) - dequantize(other[rows], after.type)
        squares *= squares
        if by_expert is None:
            total += float(squares.sum(dtype=np.float64))
        else:
            of_row = by_expert[np.arange(start, start + len(squares)) // rows_each]
            total += float((squares * of_row).sum(dtype=np.float64))
    return total


def _rows(path: Path, tensor: Tensor) -> np.ndarray:
    n_rows = tensor.n_elements // tensor.shape[0]
    return np.memmap(path, np.uint8, "r", tensor.offset, (n_rows, tensor.n_bytes // n_rows))
