"""Statistics of an importance matrix, and the merging of several, as in llama-imatrix.

For each tensor: the sum of its mean squared inputs, how evenly that is spread over the inputs, and
the similarity to the same tensor one layer before.
https://github.com/ggml-org/llama.cpp/tree/master/tools/imatrix
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.quantization.imatrix import Imatrix

LAYER = re.compile(r"blk\.(\d+)\.")
INACTIVE = 1e-5  # a mean of squares up to this counts as no input


@dataclass(frozen=True)
class TensorStatistics:
    """Statistics of the mean squares of a tensor's inputs."""

    tensor: str
    total: float
    minimum: float
    maximum: float
    mean: float
    deviation: float  # standard deviation
    active: float  # share of inputs above INACTIVE
    n_inputs: int
    entropy: float  # bits, of the inputs' shares of `total`
    evenness: float  # entropy over that of equal shares
    outliers: float  # share of inputs more than a standard deviation above the mean
    similarity: float | None  # cosine with the layer before; None for the first layer


def imatrix_statistics(matrix: Imatrix) -> list[TensorStatistics]:
    """The statistics of all tensors, sorted by kind, and within a kind by `total`, largest first.

    Experts without a token do not count. Raises ReellamaError if no tensor is left.
    """
    means = {name: _means(matrix, name) for name in matrix.sums}
    statistics = [
        _statistics(name, values, _similarity(matrix, name))
        for name, values in means.items()
        if len(values)
    ]
    if not statistics:
        raise ReellamaError("the importance matrix counts no token: there is nothing to say of it")
    return sorted(statistics, key=lambda row: (LAYER.sub("", row.tensor), -row.total))


def merge_imatrices(matrices: Sequence[tuple[Path, Imatrix]]) -> Imatrix:
    """The importance matrix of all texts together, from one matrix for each, with their paths.

    Raises ReellamaError, which names the paths, for matrices of different models.
    """
    (first_path, first), *others = matrices
    sums = {name: values.astype(np.float64) for name, values in first.sums.items()}
    counts = {name: values.astype(np.float64) for name, values in first.counts.items()}
    for path, other in others:
        for name, values in other.sums.items():
            if name in sums and sums[name].shape != values.shape:
                raise ReellamaError(
                    f"{path} and {first_path} are of different models: {name} has "
                    f"{values.size:,} inputs in one, and {sums[name].size:,} in the other"
                )
            sums[name] = sums.get(name, 0.0) + values.astype(np.float64)
            counts[name] = counts.get(name, 0.0) + other.counts[name].astype(np.float64)
    return Imatrix(
        {name: values.astype(np.float32) for name, values in sums.items()},
        {name: values.astype(np.float32) for name, values in counts.items()},
        tuple(text for _, matrix in matrices for text in matrix.datasets),
        sum(matrix.chunk_count for _, matrix in matrices),
        first.chunk_size,
    )


def _means(matrix: Imatrix, name: str) -> np.ndarray:
    """Means of squares, float64 `[n]`, of the experts that had tokens."""
    counted = matrix.counts[name] > 0
    sums = matrix.sums[name].astype(np.float64)
    return (sums[counted] / matrix.counts[name][counted, None]).reshape(-1)


def _statistics(name: str, values: np.ndarray, similarity: float | None) -> TensorStatistics:
    total, mean = float(values.sum()), float(values.mean())
    deviation = float(values.std())
    shares = values[values > 0] / total if total > 0 else values[:0]
    entropy = float(-(shares * np.log2(shares)).sum())
    return TensorStatistics(
        tensor=name,
        total=total,
        minimum=float(values.min()),
        maximum=float(values.max()),
        mean=mean,
        deviation=deviation,
        active=float((np.abs(values) > INACTIVE).mean()),
        n_inputs=len(values),
        entropy=entropy,
        evenness=entropy / float(np.log2(len(values))) if len(values) > 1 else 1.0,
        outliers=float((values > mean + deviation).mean()) if deviation > 0 else 0.0,
        similarity=similarity,
    )


def _similarity(matrix: Imatrix, name: str) -> float | None:
    """Cosine between the inputs of a tensor and of the same tensor one layer before."""
    match = LAYER.search(name)
    if match is None:
        return None
    previous = f"{name[: match.start(1)]}{int(match[1]) - 1}{name[match.end(1) :]}"
    if previous not in matrix.sums or matrix.sums[previous].shape != matrix.sums[name].shape:
        return None
    a, b = (matrix.sums[key].astype(np.float64).reshape(-1) for key in (name, previous))
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms else None
