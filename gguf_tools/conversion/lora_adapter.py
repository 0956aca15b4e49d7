"""Convert LoRA adapters (Hu et al., 2021) of PEFT for llama.cpp.

A PEFT folder has adapter_config.json and adapter_model.safetensors, with a matrix A
`[rank, inputs]` and a matrix B `[outputs, rank]` for each adapted module. llama.cpp adds
alpha / rank * B A, with one alpha for the whole file. Where PEFT scales a module differently, B is
multiplied by the rest of the factor.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gguf import (
    GGML_QUANT_SIZES,
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    get_tensor_name_map,
)

from reellama.gguf_tools.conversion.architectures import Architecture, Config
from reellama.gguf_tools.conversion.hf_folder import read_json, reporting_damage
from reellama.gguf_tools.conversion.hf_tensors import HFTensor, read_header
from reellama.gguf_tools.conversion.planned_tensor import PlannedTensor
from reellama.gguf_tools.conversion.tensor_plan import (
    check_dtype,
    interleaved_rows,
    language_name,
    tensor_sort_key,
)
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import TOKEN_EMBEDDINGS
from reellama.gguf_tools.user_paths import expand_user

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TENSOR = re.compile(r"^(?:base_model\.model\.)?(.+)\.lora_(?:embedding_)?([AB])(?:\.weight)?$")
# Values of init_lora_weights that change the weights of the base model, so that the adapter does
# not fit the original ones.
CHANGES_THE_BASE = ("pissa", "olora", "corda")
MERGE = "merge it into its model with PEFT's merge_and_unload(), and convert that"


@dataclass(frozen=True)
class AdapterPlan:
    """The contents of an adapter's GGUF."""

    tensors: list[PlannedTensor]
    alpha: float
    invocation_tokens: list[int]  # that switch on an activated LoRA (aLoRA); empty for a plain LoRA


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model."""
    return (folder / ADAPTER_CONFIG).is_file() and not any(folder.glob("model*.safetensors"))


def base_folder(folder: Path, base: Path | None) -> Path:
    """The folder of an adapter's base model: `base`, or the one that the adapter's config names.

    Raises ReellamaError if that is not a folder on this machine.
    """
    if base is not None:
        return base
    path = folder / ADAPTER_CONFIG
    name = read_json(path).get("base_model_name_or_path")
    if isinstance(name, str) and name and (expand_user(name) / "config.json").is_file():
        return expand_user(name)
    raise ReellamaError(
        f"{path} names the model {name!r:.80}, which is no folder here: give --base FOLDER, with "
        "its config.json"
    )


def adapter_tensors(folder: Path) -> dict[str, HFTensor]:
    """The tensors of an adapter. Raises ReellamaError for a file that is missing or damaged."""
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        raise ReellamaError(
            f"{folder} has no {ADAPTER_WEIGHTS}; download it, or save the adapter again with PEFT"
        )
    return read_header(path)


def plan_adapter(
    folder: Path,
    architecture: Architecture,
    config: Config,
    tensors: Mapping[str, HFTensor],
    type_: GGMLQuantizationType,
) -> AdapterPlan:
    """Plan the GGUF of an adapter for a model of `config`.

    Raises ReellamaError for an adapter that llama.cpp does not support, or of another model.
    """
    path = folder / ADAPTER_CONFIG
    settings = read_json(path)
    with reporting_damage(path):
        _check(path, settings)
        modules = _modules(folder, tensors)
        alphas = {name: _alpha(settings, name, pair[0].shape[0]) for name, pair in modules.items()}
        alpha = Counter(alphas.values()).most_common(1)[0][0]
        if not alpha:
            raise ReellamaError(f"{path}: with lora_alpha 0 it changes nothing")
        names = get_tensor_name_map(architecture.arch, config["num_hidden_layers"])
        plan = []
        for name, (a, b) in modules.items():
            target = names.get_name(language_name(f"{name}.weight"), (".weight",))
            if target is None:
                raise ReellamaError(
                    f"{a.path}: {name} has no place in llama.cpp's architecture "
                    f"{MODEL_ARCH_NAMES[architecture.arch]}"
                )
            factor = alphas[name] / alpha
            plan += _pair(architecture, config, target, a, b, factor, type_)
        invocation = settings.get("alora_invocation_tokens") or []
        plan.sort(key=lambda tensor: tensor_sort_key(tensor.name))
        return AdapterPlan(plan, float(alpha), [int(token) for token in invocation])


def _check(path: Path, settings: Mapping[str, Any]) -> None:
    """Raise ReellamaError for an adapter with more than A and B, such as DoRA."""
    kind = settings.get("peft_type", "LORA")
    if kind != "LORA":
        raise ReellamaError(f"{path}: an adapter of the kind {kind} is not known; LORA is")
    start = settings.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(CHANGES_THE_BASE):
        raise ReellamaError(f"{path}: with init_lora_weights {start} it fits no model but its own")
    for key in ("use_dora", "lora_bias", "layer_replication", "target_parameters"):
        if settings.get(key):
            raise ReellamaError(f"{path}: llama.cpp's adapters have no {key}; {MERGE}")


def _modules(folder: Path, tensors: Mapping[str, HFTensor]) -> dict[str, tuple[HFTensor, HFTensor]]:
    """A and B of each adapted module, by its name."""
    halves: dict[str, dict[str, HFTensor]] = {}
    for name, tensor in tensors.items():
        if ".base_layer." in name:  # a copy of the base model's weight
            continue
        match = TENSOR.match(name)
        if match is None:
            raise ReellamaError(
                f"{tensor.path}: llama.cpp's adapters have no place for {name}, which is of no "
                f"LoRA; {MERGE}"
            )
        halves.setdefault(match[1], {})[match[2]] = tensor
    modules = {}
    for name, pair in halves.items():
        a, b = pair.get("A"), pair.get("B")
        if a is None or b is None:
            raise ReellamaError(f"{folder} is damaged: of {name} it has one half only")
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
            raise ReellamaError(
                f"{a.path}: A {list(a.shape)} and B {list(b.shape)} of {name} do not fit each other"
            )
        check_dtype(a)
        check_dtype(b)
        modules[name] = a, b
    if not modules:
        raise ReellamaError(f"{folder / ADAPTER_WEIGHTS} holds no tensors")
    return modules


def _alpha(settings: Mapping[str, Any], module: str, rank: int) -> float:
    """The alpha of a module for which alpha / rank is PEFT's scale."""
    alpha = settings.get("lora_alpha", 8)
    for pattern, value in (settings.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break
    # Rank-stabilized LoRA, https://arxiv.org/abs/2312.03732, divides by the rank's root.
    return float(alpha) * (math.sqrt(rank) if settings.get("use_rslora") else 1)


def _pair(
    architecture: Architecture,
    config: Config,
    name: str,
    a: HFTensor,
    b: HFTensor,
    factor: float,
    type_: GGMLQuantizationType,
) -> list[PlannedTensor]:
    """The tensors A and B of the weight `name`."""
    tied = config["tie_word_embeddings"]
    if tied and name in (TOKEN_EMBEDDINGS, "output.weight"):
        raise ReellamaError(
            f"{a.path} changes the token embeddings, which are the output too: llama.cpp's "
            f"adapters cannot; {MERGE}"
        )
    # Embeddings are looked up by row, so A, not B, has a row for each token.
    lookup = name == TOKEN_EMBEDDINGS
    rows = None if lookup else interleaved_rows(architecture, config, b, name)
    first = PlannedTensor(
        f"{name}.lora_a", a.shape[::-1] if lookup else a.shape, type_, (a,), transposed=lookup
    )
    second = PlannedTensor(f"{name}.lora_b", b.shape, type_, (b,), rows=rows, factor=factor)
    block, _ = GGML_QUANT_SIZES[type_]
    f16 = GGMLQuantizationType.F16
    pair = (first, second)
    return [part if part.shape[-1] % block == 0 else replace(part, type=f16) for part in pair]
