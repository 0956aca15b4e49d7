"""mmproj files of every family that is known, with random weights of a few kilobytes.

Their tensors have the names that libmtmd asks for when it opens a file, and the shapes that decide
how wide a token is. They cannot encode a picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

N_TOWER, N_FF, N_EMBD = 32, 96, 64  # of the tower, its feed-forward layers, and the LLM
IMAGE, PATCH = 56, 7

_MLP = {"mm.0": (N_EMBD, N_TOWER), "mm.2": (N_EMBD, N_EMBD)}
_MLP_1 = {"mm.1": (N_EMBD, N_TOWER), "mm.2": (N_EMBD, N_EMBD)}
_NORM = {"mm.input_norm": (N_TOWER, N_TOWER)}
_FC = {"mm.model.fc": (N_EMBD, N_TOWER)}
_GATED = {f"mm.{name}": (N_FF, N_EMBD) for name in ("up", "gate")} | {"mm.down": (N_EMBD, N_FF)}
_LDP = {
    f"mm.model.mb_block.{i}.block.{name}": (N_EMBD, N_EMBD)
    for i in (1, 2)
    for name in ("0.0", "0.1", "1.fc1", "1.fc2", "2.0", "2.1")
}
_RESAMPLER = {f"resampler.attn.{name}": (N_EMBD, N_EMBD) for name in ("q", "k", "v", "out")} | {
    f"resampler.ln_{name}": (N_EMBD, N_EMBD) for name in ("q", "kv", "post")
}
# Layers of the projector by family, as (outputs, inputs): each a weight and a bias.
LAYERS: dict[str, dict[str, tuple[int, int]]] = {
    "mlp": _MLP,
    "mlp_norm": {f"mm.{i}": (N_EMBD, N_TOWER if i == 0 else N_EMBD) for i in (0, 1, 3, 4)},
    "ldp": {f"mm.model.mlp.{i}": (N_EMBD, N_TOWER) for i in (1, 3)} | _LDP,
    "ldpv2": {f"mm.model.{name}": (N_EMBD, N_TOWER) for name in ("mlp.0", "mlp.2", "peg.0")},
    "adapter": {
        "adapter.conv": (N_TOWER, N_TOWER),
        "adapter.linear.linear": (N_EMBD, N_TOWER),
        "adapter.linear.norm1": (N_EMBD, N_EMBD),
        "adapter.linear.dense_h_to_4h": (N_FF, N_EMBD),
        "adapter.linear.gate": (N_FF, N_EMBD),
        "adapter.linear.dense_4h_to_h": (N_EMBD, N_FF),
    },
    "resampler": _RESAMPLER | {"resampler.kv": (N_EMBD, N_TOWER)},
    "minicpmv4_6": _NORM | {"mm.up": (N_FF, N_TOWER), "mm.down": (N_EMBD, N_FF)},
    "idefics3": _FC,
    "internvl": {f"mm.model.mlp.{i}": (N_EMBD, N_TOWER) for i in (0, 1, 3)},
    "nemotron_v2_vl": {f"mm.model.mlp.{i}": (N_EMBD, N_TOWER) for i in (0, 1, 3)},
    "llama4": {f"mm.model.mlp.{i}": (N_TOWER, N_TOWER) for i in (1, 2)} | _FC,
    "janus_pro": {"mm.0": (N_EMBD, N_TOWER), "mm.1": (N_EMBD, N_EMBD)},
    "cogvlm": _FC | {"mm.post_fc_norm": (N_EMBD, N_EMBD)} | _GATED,
    "gemma3": {},
    "gemma4v": {},
    "lfm2": _NORM | _MLP_1,
    "kimivl": _NORM | _MLP_1,
    "pixtral": _MLP_1,
    "phi4": _MLP,
    "qwen2vl_merger": _MLP,
    "qwen2.5vl_merger": _MLP,
    "qwen3vl_merger": _MLP,
    "glm4v": _FC | _GATED | dict.fromkeys(("mm.post_norm", "mm.patch_merger"), (N_EMBD, N_EMBD)),
}
# Other tensors, by family.
OTHERS: dict[str, dict[str, tuple[int, ...]]] = {
    "adapter": {"adapter.boi": (N_EMBD,), "adapter.eoi": (N_EMBD,)},
    "resampler": {
        "resampler.pos_embed_k": (64, N_EMBD),
        "resampler.query": (64, N_EMBD),
        "resampler.proj.weight": (N_EMBD, N_EMBD),
    },
    "cogvlm": {"v.boi": (N_EMBD,), "v.eoi": (N_EMBD,)},
    "gemma3": {"mm.input_projection.weight": (N_TOWER, N_EMBD), "mm.soft_emb_norm.weight": (32,)},
    "gemma4v": {"mm.input_projection.weight": (N_EMBD, N_TOWER)},
    "pixtral": {"v.token_embd.img_break": (N_EMBD,)},
}
SCALED = ("idefics3", "internvl", "kimivl", "lfm2", "llama4", "minicpmv4_6", "nemotron_v2_vl")
# Keys that a family must have.
KEYS: dict[str, dict[str, Any]] = {
    "phi4": {"clip.vision.image_min_pixels": 49, "clip.vision.image_max_pixels": 4900},
    "qwen2.5vl_merger": {"clip.vision.n_wa_pattern": 8},
    "resampler": {"clip.minicpmv_version": 3},
    **{name: {"clip.vision.projector.scale_factor": 2} for name in SCALED},
    **{name: {"clip.vision.spatial_merge_size": 2} for name in ("pixtral", "glm4v")},
}


def write(
    path: Path,
    family: str = "mlp",
    keys: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
    n_embd: int = N_EMBD,
    type_: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    arch: str = "clip",
) -> Path:
    """Write an mmproj of a family of FAMILIES, or of a made-up one, for LLMs of width `n_embd`.

    `keys` and `tensors` replace those of the family by name; None leaves a key out. Weights whose
    rows are whole blocks of the type `type_` are of that type. With another `arch` it is an LLM's
    file that holds a tower.
    """
    writer = gguf.GGUFWriter(path, arch)
    for key, value in ({**common_keys(family), **KEYS.get(family, {})} | dict(keys or {})).items():
        _add(writer, key, value)
    for name, weight in {**weights(family, n_embd), **(tensors or {})}.items():
        whole = weight.shape[-1] % gguf.GGML_QUANT_SIZES[type_][0] == 0
        if weight.dtype == np.float32 and weight.ndim == 2 and whole:
            data = gguf.quantize(weight, type_)
            writer.add_tensor(name, data, raw_dtype=type_)
        else:
            writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_lightonocr(path: Path) -> Path:
    """Write an mmproj that libmtmd can encode with, of a family that FAMILIES does not have."""
    shapes: dict[str, tuple[int, ...]] = {
        "mm.1.weight": (N_EMBD, N_TOWER),
        "mm.2.weight": (N_EMBD, N_EMBD),
        "mm.input_norm.weight": (N_TOWER,),
        "mm.patch_merger.weight": (N_TOWER, 4 * N_TOWER),
        "v.blk.0.ln1.weight": (N_TOWER,),
        "v.blk.0.ln2.weight": (N_TOWER,),
    }
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(0, 0.1, size).astype(np.float32) for name, size in shapes.items()}
    keys = {"clip.vision.projection_dim": N_EMBD, "clip.vision.spatial_merge_size": 2}
    return write(path, "lightonocr", keys, tensors)


def common_keys(family: str) -> dict[str, Any]:
    """The keys that files of all families have."""
    return {
        "clip.has_vision_encoder": True,
        "clip.projector_type": "mlp" if family == "mlp_norm" else family,
        "clip.use_gelu": True,
        "clip.vision.image_size": IMAGE,
        "clip.vision.patch_size": PATCH,
        "clip.vision.embedding_length": N_TOWER,
        "clip.vision.feed_forward_length": N_FF,
        "clip.vision.block_count": 1,
        "clip.vision.projection_dim": 999,  # wrong, as in files of early converters
        "clip.vision.attention.head_count": 4,
        "clip.vision.attention.layer_norm_epsilon": 1e-6,
        "clip.vision.image_mean": [0.5, 0.25, 0.125],
        "clip.vision.image_std": [1.0, 0.5, 0.25],
    }


def weights(family: str, n_embd: int = N_EMBD) -> dict[str, np.ndarray]:
    """Random weights by tensor name, float32."""
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "v.patch_embd.weight": (N_TOWER, 3, PATCH, PATCH),
        "v.position_embd.weight": ((IMAGE // PATCH) ** 2, N_TOWER),
        **OTHERS.get(family, {}),
    }
    layers = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_out", "ln1", "ln2"), (N_TOWER,) * 2)
    layers |= {"ffn_up": (N_FF, N_TOWER), "ffn_down": (N_TOWER, N_FF)}
    named = {f"v.blk.0.{name}": shape for name, shape in layers.items()}
    for name, (outputs, inputs) in (named | LAYERS.get(family, {})).items():
        shapes |= {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
    return {
        name: rng.normal(0, 0.1, [n_embd if n == N_EMBD else n for n in shape]).astype(np.float32)
        for name, shape in shapes.items()
    }


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif key == "clip.minicpmv_version":  # the one key that libmtmd reads with a sign
        writer.add_int32(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value is not None:
        writer.add_array(key, value)
