"""Plan the tensors of an mmproj from a Hugging Face folder: names, types and order.

Names on the right are those of llama.cpp's `tools/mtmd/clip-impl.h`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType

from reellama.gguf_tools.conversion.hf_tensors import HFTensor
from reellama.gguf_tools.conversion.planned_tensor import PlannedTensor
from reellama.gguf_tools.conversion.tensor_plan import VISION_TENSORS, check_dtype
from reellama.gguf_tools.conversion.vision_encoder import VisionEncoder
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.mmproj_types import mmproj_tensor_type

# Prefixes of the encoder's tensors, which differ by family and version of transformers.
ENCODER = re.compile(r"^(vision_tower\.vision_model|vision_tower|vision_model|visual)\.")
# Tensors that llama.cpp does not use: SigLIP's pooling head, constant tables, LLaVA's newline
# token.
UNUSED = re.compile(r"^v/head\.|position_ids$|rotary_pos_emb\.inv_freq$|^image_newline$")
LAYER = r"^v/(?:encoder\.layers|blocks)\.(\d+)\."
# Pattern of the beginning of a tensor's name -> its replacement in a GGUF.
GGUF_NAMES = {
    r"^v/embeddings\.class_embedding$": "v.class_embd",
    r"^v/embeddings\.patch_embedding\.": "v.patch_embd.",
    r"^v/embeddings\.position_embedding\.": "v.position_embd.",
    r"^v/pre_layrnorm\.": "v.pre_ln.",  # transformers' spelling
    r"^v/(post_layernorm|merger\.ln_q)\.": "v.post_ln.",
    LAYER + r"(?:layer_)?norm([12])\.": r"v.blk.\1.ln\2.",
    LAYER + r"self_attn\.([qkv])_proj\.": r"v.blk.\1.attn_\2.",
    LAYER + r"attn\.qkv\.": r"v.blk.\1.attn_qkv.",
    LAYER + r"(self_attn\.out_proj|attn\.proj)\.": r"v.blk.\1.attn_out.",
    LAYER + r"mlp\.fc1\.": r"v.blk.\1.ffn_up.",
    LAYER + r"mlp\.fc2\.": r"v.blk.\1.ffn_down.",
    LAYER + r"mlp\.(up|gate|down)_proj\.": r"v.blk.\1.ffn_\2.",
    r"^v/patch_embed\.proj\.": "v.patch_embd.",
    r"^v/merger\.mlp\.([02])\.": r"mm.\1.",
    r"^multi_modal_projector\.linear_1\.": "mm.0.",
    r"^multi_modal_projector\.linear_2\.": "mm.2.",
    r"^multi_modal_projector\.mm_input_projection_weight$": "mm.input_projection.weight",
    r"^multi_modal_projector\.mm_soft_emb_norm\.": "mm.soft_emb_norm.",
    r"^connector\.modality_projection\.proj\.": "mm.model.fc.",
}
NORMS = ("ln1.weight", "ln2.weight")
# Tensors outside of layers that a projector's family needs.
REQUIRED_TENSORS = {
    "mlp": ("v.position_embd.weight", "mm.0.weight", "mm.0.bias", "mm.2.weight", "mm.2.bias"),
    "idefics3": ("v.position_embd.weight", "v.post_ln.weight", "mm.model.fc.weight"),
    "gemma3": (
        "v.position_embd.weight",
        "v.post_ln.weight",
        "mm.input_projection.weight",
        "mm.soft_emb_norm.weight",
    ),
    "qwen2.5vl_merger": (
        "v.patch_embd.weight.1",
        "v.post_ln.weight",
        "mm.0.weight",
        "mm.0.bias",
        "mm.2.weight",
        "mm.2.bias",
    ),
}


def plan_vision_tensors(
    folder: Path,
    encoder: VisionEncoder,
    tensors: Mapping[str, HFTensor],
    type_: GGMLQuantizationType,
) -> list[PlannedTensor]:
    """Return an mmproj's tensors, sorted. Raises ReellamaError for a missing tensor, for one that
    llama.cpp does not have, and for a shape that contradicts config.json."""
    plan = [
        planned
        for name, tensor in tensors.items()
        if VISION_TENSORS.match(name)
        for planned in _plan(encoder, name, tensor, type_)
    ]
    names = {tensor.name for tensor in plan}
    # Each layer must have the kinds of tensors that any layer has.
    kinds = {re.sub(r"^v\.blk\.\d+\.", "", name) for name in names if name.startswith("v.blk.")}
    kinds |= {"attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_out.weight"}
    kinds |= {"ffn_up.weight", "ffn_down.weight", *NORMS}
    required = {f"v.blk.{layer}.{kind}" for layer in range(encoder.n_layer) for kind in kinds}
    required |= {"v.patch_embd.weight", *REQUIRED_TENSORS[encoder.projector]}
    if encoder.class_token:
        required |= {"v.class_embd", "v.pre_ln.weight", "v.pre_ln.bias"}
    if missing := sorted(required - names):
        raise ReellamaError(
            f"{folder} lacks {len(missing)} of the vision encoder's tensors, among them what "
            f"becomes {missing[0]}; download it again"
        )
    _check_shapes(folder, encoder, plan)
    return sorted(plan, key=lambda tensor: _tensor_sort_key(tensor.name))


def _check_shapes(folder: Path, encoder: VisionEncoder, plan: list[PlannedTensor]) -> None:
    """Raise ReellamaError for shapes that contradict config.json, which make llama.cpp abort."""
    n_embd, patch = encoder.n_embd, encoder.patch_size
    shapes = {tensor.name: tensor.shape for tensor in plan}
    n_out = encoder.n_embd_text
    expected = {
        "v.patch_embd.weight": (n_embd, 3, patch, patch),
        "v.position_embd.weight": (encoder.side**2 + encoder.class_token, n_embd),
        "v.blk.0.ffn_up.weight": (encoder.n_ff, n_embd),
        "mm.input_projection.weight": (n_embd, n_out),
        "mm.model.fc.weight": (n_out, n_embd * encoder.n_merge**2),
        "mm.2.bias": (n_out,),
    }
    for name, shape in expected.items():
        if shapes.get(name, shape) != shape:
            raise ReellamaError(
                f"{folder}: what becomes {name} is {list(shapes[name])}, not {list(shape)} as "
                "config.json says; download it again"
            )


def _plan(
    encoder: VisionEncoder, name: str, tensor: HFTensor, type_: GGMLQuantizationType
) -> Iterator[PlannedTensor]:
    """The tensors of the mmproj that are made from one of the folder's: none, one or several."""
    name = ENCODER.sub("v/", name.removeprefix("model."))
    if UNUSED.search(name):
        return
    check_dtype(tensor)
    target = _target(name)
    if target is None:
        raise ReellamaError(
            f"{tensor.path}: the tensor {tensor.name} {list(tensor.shape)} has no place in "
            f"llama.cpp's vision encoder for {encoder.projector}"
        )
    if target.startswith("v.post_ln.") and not encoder.final_norm:
        return
    if (layer := re.match(r"v\.blk\.(\d+)\.", target)) and int(layer[1]) >= encoder.n_layer:
        return
    offset = 1.0 if target == "mm.soft_emb_norm.weight" else 0.0  # Gemma's norm
    planned = PlannedTensor(
        target, tensor.shape, GGMLQuantizationType.F32, (tensor,), offset=offset
    )
    for part in _parts(planned):
        kind = mmproj_tensor_type(part.name, part.shape, type_)
        yield part if kind is None else replace(part, type=kind)


def _target(name: str) -> str | None:
    for pattern, target in GGUF_NAMES.items():
        if match := re.match(pattern, name):
            return match.expand(target) + name[match.end() :]
    return None


def _parts(tensor: PlannedTensor) -> Iterator[PlannedTensor]:
    """A tensor split as in llama.cpp: into queries, keys and values, or into a matrix for each
    frame."""
    n_rows, *inner = tensor.shape
    if ".attn_qkv." in tensor.name:
        for i, letter in enumerate("qkv"):
            rows = np.arange(n_rows // 3) + i * (n_rows // 3)
            name = tensor.name.replace("attn_qkv", f"attn_{letter}")
            yield replace(tensor, name=name, shape=(len(rows), *inner), rows=rows)
    elif tensor.name == "v.patch_embd.weight" and len(tensor.shape) == 5:
        for frame, name in enumerate((tensor.name, tensor.name + ".1")):
            shape = (n_rows, inner[0], *inner[2:])
            yield replace(tensor, name=name, shape=shape, frame=frame)
    else:
        yield tensor


def _tensor_sort_key(name: str) -> tuple[int, int, str]:
    """A sort key: the encoder's tensors, layer by layer, then the projector's."""
    layer = re.match(r"v\.blk\.(\d+)\.", name)
    return name.startswith("mm."), int(layer[1]) if layer else -1, name
