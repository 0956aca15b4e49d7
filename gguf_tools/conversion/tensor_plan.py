"""Plan the tensors of a GGUF from a Hugging Face folder: names, types and order.

Names come from the table of the `gguf` package. Only the headers of the files are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, get_tensor_name_map

from reellama.gguf_tools.conversion.architectures import Architecture, Config
from reellama.gguf_tools.conversion.expert_tensors import plan_experts
from reellama.gguf_tools.conversion.hf_tensors import NUMPY_TYPES, HFTensor
from reellama.gguf_tools.conversion.hyperparameters import frequency_factors
from reellama.gguf_tools.conversion.planned_tensor import PlannedTensor, tensor_type
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import TOKEN_EMBEDDINGS

OUTPUT_TENSOR = "output.weight"
# Constants in the files of old models, which llama.cpp computes itself.
SKIPPED_TENSORS = re.compile(r"rotary_emb\.inv_freq$|\.masked_bias$|\.attn\.bias$")
# GPT-2's matrices, which are transposed (`Conv1D` in transformers).
CONV1D_WEIGHTS = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")
# Tensors of a vision encoder and its projector.
VISION_TENSORS = re.compile(
    r"^(model\.)?((vision_tower|vision_model|visual|multi_modal_projector|connector)\.|"
    r"image_newline$)"
)


def plan_tensors(
    folder: Path,
    architecture: Architecture,
    config: Config,
    tensors: Mapping[str, HFTensor],
    type_: GGMLQuantizationType,
) -> list[PlannedTensor]:
    """Return the tensors of the GGUF, sorted. Raises ReellamaError for a missing tensor, and for
    one that llama.cpp's architecture does not have."""
    names = get_tensor_name_map(architecture.arch, config["num_hidden_layers"])
    plan: list[PlannedTensor] = []
    if architecture.has_experts:
        plan, tensors = plan_experts(tensors, config, type_)
    plan += [
        _plan(architecture, config, names.get_name(name, (".weight", ".bias")), tensor, type_)
        for name, tensor in tensors.items()
    ]
    plan += [
        PlannedTensor(name, factors.shape, GGMLQuantizationType.F32, values=factors)
        for name, factors in frequency_factors(architecture, config).items()
    ]
    for tensor in (source for planned in plan for source in planned.sources):
        check_dtype(tensor)
    _check_complete(folder, architecture, config, {tensor.name for tensor in plan})
    return sorted(plan, key=lambda tensor: tensor_sort_key(tensor.name))


def _check_complete(
    folder: Path, architecture: Architecture, config: Config, names: set[str]
) -> None:
    """Raise ReellamaError if a tensor is missing. Each layer must have what any layer has."""
    required = {TOKEN_EMBEDDINGS, "output_norm.weight"}
    if architecture.is_gpt2:
        required.add("position_embd.weight")
    if not config["tie_word_embeddings"]:  # else llama.cpp uses the token embeddings
        required.add(OUTPUT_TENSOR)
    kinds = {re.sub(r"^blk\.\d+\.", "", name) for name in names if name.startswith("blk.")}
    if architecture.has_experts:
        kinds |= {f"ffn_{kind}_exps.weight" for kind in ("gate", "up", "down")}
    layers = range(config["num_hidden_layers"])
    required |= {f"blk.{layer}.{kind}" for layer in layers for kind in kinds}
    if missing := sorted(required - names):
        raise ReellamaError(
            f"{folder} lacks {len(missing)} of the model's tensors, among them what becomes "
            f"{missing[0]}; download it again"
        )


def language_tensors(tensors: Mapping[str, HFTensor], config: Config) -> dict[str, HFTensor]:
    """The tensors of the language model, named as in a model without vision."""
    needed = {}
    for name, tensor in tensors.items():
        if SKIPPED_TENSORS.search(name) or VISION_TENSORS.match(name):
            continue
        name = language_name(name)
        if name == "lm_head.weight" and config["tie_word_embeddings"]:
            continue
        needed[name] = tensor
    return needed


def language_name(name: str) -> str:
    """The name of a tensor in the newest files of a model without vision."""
    # "language_model.model.layers..." in older files, "model.language_model.layers..." in newer
    name = re.sub(r"^model\.(language|text)_model\.", "model.", name)
    name = name.removeprefix("language_model.")
    return re.sub(r"^(h\.\d+|wte|wpe|ln_f)\.", r"transformer.\g<0>", name)  # GPT-2's first files


def check_dtype(tensor: HFTensor) -> None:
    """Raise ReellamaError for a tensor of a dtype that cannot be converted."""
    if tensor.dtype not in NUMPY_TYPES:
        raise ReellamaError(
            f"{tensor.path}: {tensor.name} is of type {tensor.dtype}; those that can be converted "
            f"are {', '.join(NUMPY_TYPES)}"
        )


def _plan(
    architecture: Architecture,
    config: Config,
    name: str | None,
    tensor: HFTensor,
    type_: GGMLQuantizationType,
) -> PlannedTensor:
    if name is None or not 1 <= len(tensor.shape) <= 2:
        raise ReellamaError(
            f"{tensor.path}: the tensor {tensor.name} {list(tensor.shape)} has no place in "
            f"llama.cpp's architecture {MODEL_ARCH_NAMES[architecture.arch]}"
        )
    transposed = architecture.is_gpt2 and bool(CONV1D_WEIGHTS.search(tensor.name))
    shape = tensor.shape[::-1] if transposed else tensor.shape
    return PlannedTensor(
        name,
        shape,
        tensor_type(name, shape, type_),
        (tensor,),
        rows=interleaved_rows(architecture, config, tensor, name),
        transposed=transposed,
        offset=architecture.norm_offset if name.endswith("_norm.weight") else 0.0,
    )


def interleaved_rows(
    architecture: Architecture, config: Config, tensor: HFTensor, name: str
) -> np.ndarray | None:
    """Return the permutation of rows for llama.cpp's interleaved RoPE; None for tensors other than
    queries and keys."""
    kind = name.split(".")[-2]
    if not architecture.interleaves_heads or kind not in ("attn_q", "attn_k"):
        return None
    n_heads = config["num_attention_heads" if kind == "attn_q" else "num_key_value_heads"]
    if tensor.shape[0] != n_heads * config["head_dim"]:
        raise ReellamaError(
            f"{tensor.path}: {tensor.name} has {tensor.shape[0]} rows, but config.json says "
            f"{n_heads} heads of {config['head_dim']}"
        )
    halves = np.arange(tensor.shape[0]).reshape(n_heads, 2, config["head_dim"] // 2)
    return halves.swapaxes(1, 2).reshape(-1)


def tensor_sort_key(name: str) -> tuple[int, str]:
    """A sort key: tensors outside of layers first, then layer by layer."""
    layer = re.match(r"blk\.(\d+)\.", name)
    return (int(layer[1]) if layer else -1, name)
