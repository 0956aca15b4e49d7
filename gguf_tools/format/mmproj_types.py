"""The types that the tensors of an mmproj may have: a vision encoder's and its projector's."""

from __future__ import annotations

import re

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

# Types of a whole mmproj, with the number that its metadata has for it.
MMPROJ_TYPES = {
    "F32": LlamaFileType.ALL_F32,
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
}
# Matrices that libmtmd multiplies by and does nothing else with. It adds up, reshapes or convolves
# the others (positions, patches, queries, norms), in F32 or F16 only.
LINEAR = re.compile(
    r"\.blk\.\d+\.(attn_(q|k|v|qkv|out)|ffn_(up|gate|down))\.weight$"
    r"|^mm\.(\d+|model\.(fc|mlp\.\d+))\.weight$"
)
# Gemma 3's projector, which libmtmd transposes: it can have no blocks, and is F16 or F32 as those.
TRANSPOSED = "mm.input_projection.weight"


def mmproj_tensor_type(
    name: str, shape: tuple[int, ...], wanted: GGMLQuantizationType
) -> GGMLQuantizationType | None:
    """Return the type of a tensor in an mmproj of type `wanted`; None for one of no other type.

    `shape` has the length of a row last. As in llama.cpp's converter, F16 takes the place of Q8_0
    where rows are no multiple of a block.
    """
    f16, f32 = GGMLQuantizationType.F16, GGMLQuantizationType.F32
    if name == TRANSPOSED:
        return f32 if wanted in (f32, GGMLQuantizationType.BF16) else f16
    if len(shape) != 2 or not LINEAR.search(name):
        return None
    return f16 if shape[-1] % GGML_QUANT_SIZES[wanted][0] else wanted
