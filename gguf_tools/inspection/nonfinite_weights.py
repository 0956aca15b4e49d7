"""Detect NaN and infinity in tensors of any type.

One NaN in a projector makes every token of a picture NaN, and the LLM then answers with noise.
Integers cannot be NaN, so for quantized types only the scales of blocks are tested.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.format.reader import GGUFFile, Tensor

CHUNK = 1 << 24  # bytes that are read at once
# Storage type and exponent bits; all of these bits are set in NaN and infinity (IEEE 754).
EXPONENTS = {
    GGMLQuantizationType.F32: ("<u4", 0x7F800000),
    GGMLQuantizationType.F16: ("<u2", 0x7C00),
    GGMLQuantizationType.BF16: ("<u2", 0x7F80),
    GGMLQuantizationType.F64: ("<u8", 0x7FF0000000000000),
}
# Byte offsets of the F16 scales (and minima) in a block: the structs of ggml-common.h.
SCALES_AT: dict[GGMLQuantizationType, tuple[int, ...]] = {
    GGMLQuantizationType.Q4_0: (0,),
    GGMLQuantizationType.Q4_1: (0, 2),
    GGMLQuantizationType.Q5_0: (0,),
    GGMLQuantizationType.Q5_1: (0, 2),
    GGMLQuantizationType.Q8_0: (0,),
    GGMLQuantizationType.Q2_K: (80, 82),
    GGMLQuantizationType.Q3_K: (108,),
    GGMLQuantizationType.Q4_K: (0, 2),
    GGMLQuantizationType.Q5_K: (0, 2),
    GGMLQuantizationType.Q6_K: (208,),
    GGMLQuantizationType.IQ4_NL: (0,),
    GGMLQuantizationType.IQ4_XS: (0,),
}


def check_weights(file: GGUFFile) -> None:
    """Raise GGUFError for the first tensor with NaN or infinity. Reads the whole file."""
    for name in nonfinite_tensors(file):
        raise GGUFError(
            f"{file.path} is damaged: {name!r} holds NaN or infinity; download or convert it again"
        )


def nonfinite_tensors(file: GGUFFile) -> Iterator[str]:
    """Yield the names of tensors with NaN or infinity. Raises GGUFError if the file cannot be read
    any more."""
    for tensor in file.tensors.values():
        if any(_has_nonfinite(blocks, tensor.type) for blocks in _chunks(file, tensor)):
            yield tensor.name


def _chunks(file: GGUFFile, tensor: Tensor) -> Iterator[np.ndarray]:
    """A tensor's blocks, uint8 `[blocks, bytes of a block]`, some MB at a time."""
    block_bytes = GGML_QUANT_SIZES[tensor.type][1]
    step = max(1, CHUNK // block_bytes) * block_bytes
    try:
        with file.path.open("rb") as data:
            data.seek(tensor.offset)
            for start in range(0, tensor.n_bytes, step):
                content = data.read(min(step, tensor.n_bytes - start))
                yield np.frombuffer(content, np.uint8).reshape(-1, block_bytes)
    except (OSError, ValueError) as error:  # ValueError: it became shorter since it was measured
        raise GGUFError(f"cannot read {file.path}: {error}") from error


def _has_nonfinite(blocks: np.ndarray, type_: GGMLQuantizationType) -> bool:
    if type_ in EXPONENTS:
        layout, mask = EXPONENTS[type_]
        return _any_set(blocks.reshape(-1).view(layout), mask)
    if type_ in SCALES_AT:
        scales = [blocks[:, at : at + 2].copy().view("<u2") for at in SCALES_AT[type_]]
        return any(_any_set(scale, EXPONENTS[GGMLQuantizationType.F16][1]) for scale in scales)
    if type_.name.startswith("I") and type_.name[1:].isdigit():  # I8 to I64
        return False
    try:
        return not np.isfinite(dequantize(blocks, type_)).all()
    except NotImplementedError:
        return False  # a type that the installed `gguf` cannot dequantize


def _any_set(numbers: np.ndarray, mask: int) -> bool:
    """Whether any number has all bits of the mask."""
    return bool(((numbers & numbers.dtype.type(mask)) == mask).any())
