"""A tensor of a GGUF that is to be written, and the type that it gets."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from reellama.gguf_tools.conversion.hf_tensors import HFTensor

# What llama.cpp computes with in F32 only, beside vectors and norms.
F32_TENSORS = re.compile(r"_norm\.weight$|(^|\.)(ffn_gate_inp|position_embd)\.weight$")


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the GGUF, and how its numbers are made.

    `sources` follow each other in it; `rows` are those of each source that are taken, in their
    order, and None is all; `frame` is the index of its third axis; a `transposed` source has
    columns where the tensor has rows. `values` are used instead of sources.
    """

    name: str
    shape: tuple[int, ...]  # the length of a row last
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
    """The type of a language model's tensor in a file of `type_`, as llama.cpp's converter has it.

    Rows that no whole number of blocks fills become F16.
    """
    if len(shape) == 1 or F32_TENSORS.search(name):
        return GGMLQuantizationType.F32
    block, _ = GGML_QUANT_SIZES[type_]
    return type_ if shape[-1] % block == 0 else GGMLQuantizationType.F16
