"""A tensor to be written to a GGUF, and its type."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from reellama.gguf_tools.conversion.hf_tensors import HFTensor

# Besides vectors and norms, the tensors that llama.cpp supports only in F32.
F32_TENSORS = re.compile(r"_norm\.weight$|(^|\.)(ffn_gate_inp|position_embd)\.weight$")


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the GGUF, and how its elements are computed: source * factor + offset.

    Attributes:
        name: in the GGUF.
        shape: in torch's order, the length of a row last.
        type: in the GGUF.
        sources: tensors that are concatenated.
        values: elements to use if there are no sources.
        rows: indices of the rows to take from each source; None for all.
        frame: index to take from the third axis; None for all.
        transposed: whether the sources are matrices to transpose.
        offset, factor: applied to the elements.
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    sources: tuple[HFTensor, ...] = ()
    values: np.ndarray | None = None
    rows: np.ndarray | None = None
    frame: int | None = None
    transposed: bool = False
    offset: float = 0.0
    factor: float = 1.0

    @property
    def n_bytes(self) -> int:
        """Bytes of its data in the GGUF."""
        block, block_bytes = GGML_QUANT_SIZES[self.type]
        return math.prod(self.shape) // block * block_bytes


def tensor_type(
    name: str, shape: tuple[int, ...], type_: GGMLQuantizationType
) -> GGMLQuantizationType:
    """The type of a language model's tensor in a file of `type_`, as in llama.cpp's converter.

    It is F16 if the length of a row is not a multiple of the block size of `type_`.
    """
    if len(shape) == 1 or F32_TENSORS.search(name):
        return GGMLQuantizationType.F32
    block, _ = GGML_QUANT_SIZES[type_]
    return type_ if shape[-1] % block == 0 else GGMLQuantizationType.F16
