"""Plan the experts of a mixture-of-experts model: llama.cpp has three tensors of them a layer.

A Hugging Face folder has either matrices of each expert, or tensors of all experts, in which gate
and up projection are concatenated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from gguf import GGMLQuantizationType

from reellama.gguf_tools.conversion.architectures import Config
from reellama.gguf_tools.conversion.hf_tensors import HFTensor
from reellama.gguf_tools.conversion.planned_tensor import PlannedTensor, tensor_type
from reellama.gguf_tools.errors import ReellamaError

_BLOCK = r"^model\.layers\.(\d+)\.(?:mlp|block_sparse_moe)\.experts\."
ONE_EXPERT = re.compile(_BLOCK + r"(\d+)\.(gate_proj|up_proj|down_proj|w1|w2|w3)\.weight$")
ALL_EXPERTS = re.compile(_BLOCK + r"(gate_up_proj|down_proj)(?:\.weight)?$")
KINDS = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
KINDS |= {"w1": "gate", "w2": "down", "w3": "up"}  # Mixtral's


def plan_experts(
    tensors: Mapping[str, HFTensor], config: Config, type_: GGMLQuantizationType
) -> tuple[list[PlannedTensor], dict[str, HFTensor]]:
    """Return llama.cpp's tensors of the experts, and the folder's tensors that are not of experts.

    Raises ReellamaError for a missing expert, and for experts of different shapes.
    """
    single: dict[str, dict[int, HFTensor]] = {}  # by llama.cpp's name, then by the expert's number
    plan: list[PlannedTensor] = []
    not_experts = {}
    for name, tensor in tensors.items():
        if match := ONE_EXPERT.match(name):
            layer, expert, kind = match.groups()
            single.setdefault(_name(layer, KINDS[kind]), {})[int(expert)] = tensor
        elif match := ALL_EXPERTS.match(name):
            layer, kind = match.groups()
            plan += _split_fused(tensor, layer, kind, config)
        else:
            not_experts[name] = tensor
    for name, experts in single.items():
        plan.append(_stacked(name, experts, config))
    return [replace(t, type=tensor_type(t.name, t.shape, type_)) for t in plan], not_experts


def _name(layer: str, kind: str) -> str:
    return f"blk.{layer}.ffn_{kind}_exps.weight"


def _stacked(name: str, experts: Mapping[int, HFTensor], config: Config) -> PlannedTensor:
    """The tensor `[experts, outputs, inputs]` of the experts' matrices `[outputs, inputs]`."""
    first = next(iter(experts.values()))
    missing = [number for number in range(config["num_experts"]) if number not in experts]
    if missing or len(experts) != config["num_experts"]:
        raise ReellamaError(
            f"{first.path}: {name} has {len(experts)} experts, and config.json says "
            f"{config['num_experts']}; download it again"
        )
    sources = tuple(experts[number] for number in range(len(experts)))
    if any(tensor.shape != first.shape or len(tensor.shape) != 2 for tensor in sources):
        raise ReellamaError(f"{first.path} is damaged: the experts of {name} have several shapes")
    f32 = GGMLQuantizationType.F32
    return PlannedTensor(name, (len(sources), *first.shape), f32, sources)


def _split_fused(tensor: HFTensor, layer: str, kind: str, config: Config) -> list[PlannedTensor]:
    """The tensors of a tensor of all experts `[experts, outputs, inputs]`: down, or gate and up."""
    if len(tensor.shape) != 3 or tensor.shape[0] != config["num_experts"]:
        raise ReellamaError(
            f"{tensor.path}: {tensor.name} {list(tensor.shape)} does not hold the "
            f"{config['num_experts']} experts of config.json"
        )
    n_experts, n_rows, n_columns = tensor.shape
    flat = (replace(tensor, shape=(n_experts * n_rows, n_columns)),)
    f32 = GGMLQuantizationType.F32
    if kind == "down_proj":
        return [PlannedTensor(_name(layer, "down"), tensor.shape, f32, flat)]
    half = n_rows // 2
    rows = np.arange(n_experts * n_rows).reshape(n_experts, 2, half)
    return [
        PlannedTensor(_name(layer, name), (n_experts, half, n_columns), f32, flat, rows=part)
        for name, part in (("gate", rows[:, 0].reshape(-1)), ("up", rows[:, 1].reshape(-1)))
    ]
