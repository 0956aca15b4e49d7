"""The types that the tensors of an mmproj may have."""

from __future__ import annotations

import re

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

# Type of a whole mmproj -> value of general.file_type.
MMPROJ_TYPES = {
    "F32": LlamaFileType.ALL_F32,
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
}
# Matrices that libmtmd uses only in matrix products, so that they may be quantized. It adds,
# reshapes or convolves the others (positions, patches, queries, norms), for which it needs F32 or
# F16.
LINEAR = re.compile(
    r"\.blk\.\d+\.(attn_(q|k|v|qkv|out)|ffn_(up|gate|down))\.weight$"
    r"|^mm\.(\d+|model\.(fc|mlp\.\d+))\.weight$"
)
# Gemma 3's projector, which libmtmd transposes. It cannot be quantized in blocks.
TRANSPOSED = "mm.input_projection.weight"


def mmproj_tensor_type(
    name: str, shape: tuple[int, ...], type_: GGMLQuantizationType
) -> GGMLQuantizationType | None:
    """Return the type of a tensor in an mmproj of `type_`; None to keep the tensor's type.

    shape: in torch's order, the length of a row last. As in llama.cpp's converter, F16 takes the
    place of Q8_0 if the length of a row is not a multiple of the block size.
    """
    f16, f32 = GGMLQuantizationType.F16, GGMLQuantizationType.F32
    if name == TRANSPOSED:
        return f32 if type_ in (f32, GGMLQuantizationType.BF16) else f16
    if len(shape) != 2 or not LINEAR.search(name):
        return None
    return f16 if shape[-1] % GGML_QUANT_SIZES[type_][0] else type_
