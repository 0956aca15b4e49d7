"""Encode float32 arrays as the data of a tensor."""

from __future__ import annotations

import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import quantize

from reellama.gguf_tools.errors import ReellamaError


def encode_tensor(name: str, numbers: np.ndarray, type_: GGMLQuantizationType) -> np.ndarray:
    """Return the data of `numbers`, float32 with rows along the last axis, as a uint8 array.

    Raises ReellamaError, with the tensor's name, for a finite value too large for F16.
    """
    if type_ != GGMLQuantizationType.F16:
        return np.ascontiguousarray(quantize(numbers, type_)).view(np.uint8)
    with np.errstate(over="ignore"):
        halves = numbers.astype(np.float16)
    if np.isinf(halves).any() and np.isfinite(numbers[np.isinf(halves)]).any():
        raise ReellamaError(
            f"{name} has numbers beyond {np.finfo(np.float16).max:,.0f}, which F16 cannot hold; "
            "convert to BF16"
        )
    return np.ascontiguousarray(halves).view(np.uint8)
