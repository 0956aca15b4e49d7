"""Quantization presets: estimate a model's size at another type, by llama.cpp's rules.

A preset such as Q4_K_M mixes types: most matrices get one type, and sensitive matrices one of more
bits. The rules are those of llama.cpp (src/llama-quant.cpp) without an importance matrix, for the
usual tensor names. Rules of single architectures are left out, so sizes are estimates.
`reellama gguf quantize --dry-run` gets exact sizes from llama.cpp.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from gguf.constants import GGML_QUANT_SIZES

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import TOKEN_EMBEDDINGS, GGUFFile, Tensor
from reellama.gguf_tools.format.tensor_types import type_named


class LayerPosition(NamedTuple):
    """The position of a tensor in a model."""

    layer: int
    n_layer: int
    n_gqa: int  # query heads to each head of keys and values


Rule = tuple[Callable[[LayerPosition], bool], str]


def _always(_: LayerPosition) -> bool:
    return True


def _more_bits(position: LayerPosition) -> bool:
    """Whether a layer is in the first or last eighth, or every third layer in between."""
    layer, eighth = position.layer, position.n_layer // 8
    return layer < eighth or layer >= 7 * position.n_layer // 8 or (layer - eighth) % 3 == 2


def _in_first(fraction: int) -> Callable[[LayerPosition], bool]:
    """A condition for the first 1 / `fraction` of the layers."""
    return lambda position: position.layer < position.n_layer // fraction


def _shared_heads(position: LayerPosition) -> bool:
    return position.n_gqa >= 4


@dataclass(frozen=True)
class QuantPreset:
    """A preset: a tensor gets the type of the first rule of its kind that applies, else `base`."""

    base: str
    rules: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)


MORE_BITS = dict.fromkeys(("attn_v", "ffn_down"), ((_more_bits, "Q6_K"),))
PRESETS = {
    "F32": QuantPreset("F32"),
    "F16": QuantPreset("F16"),
    "BF16": QuantPreset("BF16"),
    "Q8_0": QuantPreset("Q8_0"),
    "Q6_K": QuantPreset("Q6_K"),
    "Q5_K_M": QuantPreset("Q5_K", MORE_BITS),
    "Q5_K_S": QuantPreset("Q5_K"),
    "Q4_K_M": QuantPreset("Q4_K", MORE_BITS),
    "Q4_K_S": QuantPreset(
        "Q4_K",
        {
            "attn_v": ((lambda position: position.layer < 4, "Q5_K"),),
            "ffn_down": ((_in_first(8), "Q5_K"),),
        },
    ),
    "Q4_0": QuantPreset("Q4_0"),
    "IQ4_XS": QuantPreset(
        "IQ4_XS", {"attn_v": ((_shared_heads, "Q5_K"),), "ffn_down": ((_in_first(8), "Q5_K"),)}
    ),
    "Q3_K_L": QuantPreset(
        "Q3_K", dict.fromkeys(("attn_v", "attn_output", "ffn_down"), ((_always, "Q5_K"),))
    ),
    "Q3_K_M": QuantPreset(
        "Q3_K",
        {
            "attn_v": ((lambda position: position.layer < 2, "Q5_K"), (_always, "Q4_K")),
            "attn_output": ((_always, "Q4_K"),),
            "ffn_down": ((_in_first(16), "Q5_K"), (_always, "Q4_K")),
        },
    ),
    "Q3_K_S": QuantPreset("Q3_K"),
    "Q2_K": QuantPreset(
        "Q2_K",
        {
            "attn_v": ((_shared_heads, "Q4_K"), (_always, "Q3_K")),
            "attn_output": ((_always, "Q3_K"),),
            "ffn_down": ((_always, "Q3_K"),),
        },
    ),
}
# Types with blocks of 32 numbers, for rows that are no multiple of 256 numbers.
FALLBACKS = {
    "IQ4_XS": "IQ4_NL",
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
TENSOR_KIND = re.compile(
    r"blk\.(\d+)\.(attn_v|attn_qkv|attn_kv_b|attn_k|attn_output|ffn_down)\w*\.weight"
)
# Fused QKV matrices and compressed keys and values follow the rules of attn_v.
VALUE_TENSORS = ("attn_v", "attn_qkv", "attn_kv_b")
UNQUANTIZED_TENSORS = re.compile(
    r"_norm\.weight$|ffn_gate_inp|ssm_conv1d|shortconv|altup|laurel|^position_embd"
)


def as_preset(file: GGUFFile, name: str) -> GGUFFile:
    """The header that the file would have if quantized to a preset such as "Q4_K_M".

    Raises ReellamaError for a name not in PRESETS.
    """
    if name.upper() not in PRESETS:
        raise ReellamaError(f"no estimate for the type {name}; there is {', '.join(PRESETS)}")
    preset = PRESETS[name.upper()]
    tensors: dict[str, Tensor] = {}
    offset = min((tensor.offset for tensor in file.tensors.values()), default=file.size)
    for tensor in file.tensors.values():
        type_ = type_named(_type_of(file, tensor, preset))
        block, block_bytes = GGML_QUANT_SIZES[type_]
        n_bytes = tensor.n_elements // block * block_bytes
        tensors[tensor.name] = replace(tensor, type=type_, offset=offset, n_bytes=n_bytes)
        offset += -(-n_bytes // 32) * 32
    return replace(file, size=offset, tensors=tensors)


def _type_of(file: GGUFFile, tensor: Tensor, preset: QuantPreset) -> str:
    rows = math.prod(tensor.shape[1:])
    if rows == 1 or not tensor.name.endswith("weight") or UNQUANTIZED_TENSORS.search(tensor.name):
        return tensor.type.name
    type_ = preset.base
    if GGML_QUANT_SIZES[type_named(type_)][0] == 1:
        return type_  # float formats are not mixed
    if tensor.name == "output.weight" or (
        tensor.name == TOKEN_EMBEDDINGS and "output.weight" not in file.tensors
    ):
        type_ = "Q6_K" if type_ != "Q8_0" and _fits(tensor, type_) else "Q8_0"
    elif match := TENSOR_KIND.fullmatch(tensor.name):
        type_ = _type_by_rules(file, int(match[1]), match[2], preset)
    if not _fits(tensor, type_):
        type_ = FALLBACKS.get(type_, type_)
    return type_ if _fits(tensor, type_) else "F16"


def _type_by_rules(file: GGUFFile, layer: int, kind: str, preset: QuantPreset) -> str:
    """The type that a preset gives a matrix of a kind, such as "ffn_down"."""
    if file.metadata.get(f"{file.architecture}.expert_count") == 8:
        # Attention is a small part of models with eight experts, and gets more bits.
        if kind in (*VALUE_TENSORS, "attn_k"):
            return "Q8_0"
        if kind == "attn_output" and preset.base in ("Q2_K", "Q3_K", "Q4_K", "IQ4_XS"):
            return "Q5_K"
    position = LayerPosition(layer, file.n_layer, _query_heads_per_kv_head(file))
    for applies, type_ in preset.rules.get("attn_v" if kind in VALUE_TENSORS else kind, ()):
        if applies(position):
            return type_
    return preset.base


def _query_heads_per_kv_head(file: GGUFFile) -> int:
    n_head, n_head_kv = (
        file.metadata.get(f"{file.architecture}.attention.{name}")
        for name in ("head_count", "head_count_kv")
    )
    if not isinstance(n_head, int) or not isinstance(n_head_kv, int):
        return 1
    return n_head // max(n_head_kv, 1)


def _fits(tensor: Tensor, type_: str) -> bool:
    return tensor.shape[0] % GGML_QUANT_SIZES[type_named(type_)][0] == 0
