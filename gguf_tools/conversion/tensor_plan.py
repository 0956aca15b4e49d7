"""Plan the tensors of a GGUF from a Hugging Face folder: names, types and order.

Names come from the table of the `gguf` package. Only the headers of the files are read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import (
    GGML_QUANT_SIZES,
    MODEL_ARCH_NAMES,
    MODEL_TENSOR,
    TENSOR_NAMES,
    GGMLQuantizationType,
    get_tensor_name_map,
)

from reellama.gguf_tools.conversion.architectures import Architecture, Config
from reellama.gguf_tools.conversion.hf_tensors import NUMPY_TYPES, HFTensor
from reellama.gguf_tools.conversion.hyperparameters import frequency_factors
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import TOKEN_EMBEDDINGS

OUTPUT_TENSOR = "output.weight"
# In the files of old models, and computed by llama.cpp.
SKIPPED_TENSORS = re.compile(r"rotary_emb\.inv_freq$|\.masked_bias$")
# Those of a vision encoder and its projector, in the files of a model that sees.
VISION_TENSORS = re.compile(
    r"^(model\.)?((vision_tower|vision_model|visual|multi_modal_projector|connector)\.|"
    r"image_newline$)"
)


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the GGUF, and how its numbers are made.

    `rows` are those of the source that are taken, in their order, and None is all; `frame` is the
    index of its third axis; `values` are used instead of a source.
    """

    name: str
    shape: tuple[int, ...]  # the length of a row last
    type: GGMLQuantizationType
    source: HFTensor | None = None
    values: np.ndarray | None = None
    rows: np.ndarray | None = None
    frame: int | None = None
    offset: float = 0.0

    @property
    def n_bytes(self) -> int:
        """Bytes of its data in the GGUF."""
        block, block_bytes = GGML_QUANT_SIZES[self.type]
        return math.prod(self.shape) // block * block_bytes


def plan_tensors(
    folder: Path,
    architecture: Architecture,
    config: Config,
    tensors: Mapping[str, HFTensor],
    type_: GGMLQuantizationType,
) -> list[PlannedTensor]:
    """Return the tensors of the GGUF. Raises ReellamaError when one is missing or has no place."""
    n_layers = config["num_hidden_layers"]
    names = get_tensor_name_map(architecture.arch, n_layers)
    plan = [
        _plan(architecture, config, names.get_name(name, (".weight", ".bias")), tensor, type_)
        for name, tensor in tensors.items()
    ]
    factors = frequency_factors(architecture, config)
    if factors is not None:
        name = TENSOR_NAMES[MODEL_TENSOR.ROPE_FREQS] + ".weight"
        f32 = GGMLQuantizationType.F32
        plan.append(PlannedTensor(name, factors.shape, f32, values=factors))
    # llama.cpp takes the token embeddings where the output is missing.
    wanted = {TOKEN_EMBEDDINGS, "output_norm.weight"}
    wanted |= set() if config["tie_word_embeddings"] else {OUTPUT_TENSOR}
    found = {tensor.name for tensor in plan}
    kinds = {re.sub(r"^blk\.\d+\.", "", name) for name in found if name.startswith("blk.")}
    wanted |= {f"blk.{layer}.{kind}" for layer in range(n_layers) for kind in kinds}
    if missing := sorted(wanted - found):
        raise ReellamaError(
            f"{folder} lacks {len(missing)} of the model's tensors, among them what becomes "
            f"{missing[0]}; download it again"
        )
    return sorted(plan, key=lambda tensor: _place(tensor.name))


def language_tensors(tensors: Mapping[str, HFTensor], config: Config) -> dict[str, HFTensor]:
    """The tensors of the language model, named as in a model without vision."""
    needed = {}
    for name, tensor in tensors.items():
        if SKIPPED_TENSORS.search(name) or VISION_TENSORS.match(name):
            continue
        # "language_model.model.layers..." in older files, "model.language_model.layers..." in newer
        name = re.sub(r"^model\.(language|text)_model\.", "model.", name)
        name = name.removeprefix("language_model.")
        if name == "lm_head.weight" and config["tie_word_embeddings"]:
            continue
        needed[name] = tensor
    return needed


def check_dtype(tensor: HFTensor) -> None:
    """Raise ReellamaError for a tensor of a type that cannot be converted."""
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
    check_dtype(tensor)
    if name is None or not 1 <= len(tensor.shape) <= 2:
        raise ReellamaError(
            f"{tensor.path}: the tensor {tensor.name} {list(tensor.shape)} has no place in "
            f"llama.cpp's architecture {MODEL_ARCH_NAMES[architecture.arch]}"
        )
    norm = name.endswith("_norm.weight")
    return PlannedTensor(
        name,
        tensor.shape,
        # llama.cpp computes with vectors and norms in F32 only.
        GGMLQuantizationType.F32 if norm or len(tensor.shape) == 1 else type_,
        source=tensor,
        rows=_interleaved(architecture, config, tensor, name),
        offset=architecture.norm_offset if norm else 0.0,
    )


def _interleaved(
    architecture: Architecture, config: Config, tensor: HFTensor, name: str
) -> np.ndarray | None:
    """Return the permutation of the rows of queries and keys for llama.cpp's interleaved rope."""
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


def _place(name: str) -> tuple[int, str]:
    """A sort key: tensors outside of layers first, then layer by layer."""
    layer = re.match(r"blk\.(\d+)\.", name)
    return (int(layer[1]) if layer else -1, name)
