"""Read the config.json of a Hugging Face model, and refuse models that llama.cpp cannot compute.

llama.cpp itself does not check a model: it would compute an unknown variant wrongly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gguf import MODEL_ARCH

from reellama.gguf_tools.conversion.architectures import (
    ARCHITECTURES,
    LANGUAGE_MODELS,
    SIZES,
    VISION_LANGUAGE_ARCHITECTURES,
    Architecture,
    Config,
)
from reellama.gguf_tools.conversion.hf_folder import read_json, reporting_damage
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.load_checks import MAX_EXPERTS

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
# Architectures whose graph in llama.cpp has no bias of the attention's output.
NO_ATTENTION_BIAS = frozenset({MODEL_ARCH.QWEN3, MODEL_ARCH.QWEN3MOE, MODEL_ARCH.OLMO2})
# Architectures whose heads in llama.cpp have hidden_size / num_attention_heads dimensions, whatever
# head_dim says.
WHOLE_HEADS = frozenset(
    {MODEL_ARCH.QWEN2, MODEL_ARCH.QWEN2VL, MODEL_ARCH.OLMO2, MODEL_ARCH.PHI3, MODEL_ARCH.GPT2}
)


def read_config(folder: Path) -> tuple[Architecture, dict[str, Any]]:
    """Return the architecture of a folder's model, and its configuration with defaults filled in.

    For a vision model, both are those of its language model. Raises ReellamaError for a folder
    without config.json, an unknown architecture, or a variant that llama.cpp cannot compute.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ReellamaError(f"{folder} is not a model's folder: {_why_no_config(folder)}")
    config = read_json(path)
    with reporting_damage(path):
        return _checked(path, config)


def _checked(path: Path, config: dict[str, Any]) -> tuple[Architecture, dict[str, Any]]:
    """As `read_config`, for the contents `config` of the file `path`."""
    name = str((config.get("architectures") or ["none"])[0])
    sizes: Config = {}
    if name in VISION_LANGUAGE_ARCHITECTURES:
        name, sizes = _language_model(path, config)
    if name not in ARCHITECTURES:
        known = ", ".join((*ARCHITECTURES, *VISION_LANGUAGE_ARCHITECTURES))
        raise ReellamaError(f"{path}: the architecture {name} is not known; known are: {known}")
    if quantization := config.get("quantization_config"):
        method = quantization.get("quant_method", "unknown")
        raise ReellamaError(
            f"{path}: the weights are quantized already ({method}); take the original model"
        )
    architecture = ARCHITECTURES[name]
    config = {**architecture.defaults, **sizes, **config, **(config.get("text_config") or {})}
    config |= {ours: config.get(theirs) for ours, theirs in architecture.names.items()}
    if config.get("intermediate_size") is None and type(config.get("hidden_size")) is int:
        config["intermediate_size"] = 4 * config["hidden_size"] if architecture.is_gpt2 else None
    if architecture.has_experts:  # transformers uses both names for the number of experts
        config["num_experts"] = config.get("num_local_experts") or config["num_experts"]
    for key in SIZES:
        if type(config.get(key)) is not int or config[key] <= 0:
            raise ReellamaError(f"{path}: {key} is {config.get(key)!r}, not a positive number")
    if config["num_hidden_layers"] > MAX_LAYERS:
        raise ReellamaError(f"{path}: llama.cpp has no models of more than {MAX_LAYERS} layers")
    config["num_key_value_heads"] = (
        config.get("num_key_value_heads") or config["num_attention_heads"]
    )
    config["head_dim"] = (
        config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    )
    if feature := _unsupported_feature(architecture, config):
        raise ReellamaError(f"{path}: llama.cpp has no {feature} in models of this architecture")
    return architecture, config


def _language_model(path: Path, config: Config) -> tuple[str, Config]:
    """The architecture of a vision model's language model, and its default sizes."""
    kind = (config.get("text_config") or {}).get("model_type") or "llama"
    if kind not in LANGUAGE_MODELS:
        raise ReellamaError(
            f"{path}: the language model {kind!r:.80} is not known in a vision model; known "
            f"are: {', '.join(LANGUAGE_MODELS)}"
        )
    name, sizes = LANGUAGE_MODELS[kind]
    return name, dict(zip(SIZES, sizes, strict=True))


def has_window(architecture: Architecture, config: Config) -> list[bool]:
    """Return for each layer whether its attention has a sliding window."""
    n_layers = config["num_hidden_layers"]
    if config.get("sliding_window") is None:
        return [False] * n_layers
    if layer_types := config.get("layer_types"):
        return [kind == "sliding_attention" for kind in layer_types]
    pattern = (
        config.get("sliding_window_pattern")
        or config.get("_sliding_window_pattern")
        or architecture.window_pattern
    )
    return [bool((layer + 1) % pattern) for layer in range(n_layers)]


def _why_no_config(folder: Path) -> str:
    if not folder.is_dir():
        return "there is no such folder"
    return "it has no config.json"


def _unsupported_feature(architecture: Architecture, config: Config) -> str | None:
    """The feature of a model that llama.cpp's graph for its architecture lacks, or None."""
    activation = config.get("hidden_activation") or config.get("hidden_act")
    if activation is not None and activation not in architecture.activations:
        return f"activation {activation}"
    if config.get("use_bidirectional_attention"):
        return "attention to both sides"
    if config["head_dim"] * config["num_attention_heads"] != config["hidden_size"] and (
        architecture.arch in WHOLE_HEADS
    ):
        return "head_dim that differs from hidden_size / num_attention_heads"
    if config.get("attention_bias") and architecture.arch in NO_ATTENTION_BIAS:
        return "attention_bias"
    if architecture.arch == MODEL_ARCH.OLMO2 and config["tie_word_embeddings"]:
        return "tie_word_embeddings"
    if architecture.has_experts and (feature := _unsupported_moe_feature(architecture, config)):
        return feature
    if architecture.is_gpt2 and (feature := _unsupported_gpt2_feature(config)):
        return feature
    if architecture.arch == MODEL_ARCH.SMOLLM3 and not _every_fourth_without_rope(config):
        return "no_rope_layers other than every fourth"
    if architecture.arch in (MODEL_ARCH.GEMMA2, MODEL_ARCH.GEMMA3):
        return _unsupported_gemma_feature(architecture, config)
    return None


def _unsupported_moe_feature(architecture: Architecture, config: Config) -> str | None:
    n_experts, n_used = config["num_experts"], config["num_experts_per_tok"]
    if not 0 < n_used <= n_experts <= MAX_EXPERTS:
        return f"{n_used} of {n_experts} experts"
    if architecture.arch == MODEL_ARCH.QWEN3MOE:
        if not config["norm_topk_prob"]:
            return "norm_topk_prob false"
        if config.get("mlp_only_layers") or config["decoder_sparse_step"] != 1:
            return "layers without experts"
    return None


def _unsupported_gpt2_feature(config: Config) -> str | None:
    if not config["scale_attn_weights"]:
        return "scale_attn_weights false"
    for key in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        if config.get(key):
            return key
    return None


def _unsupported_gemma_feature(architecture: Architecture, config: Config) -> str | None:
    # llama.cpp scales by hidden_size / heads in the largest models, which it recognizes by their
    # number of layers, and by head_dim in the others.
    largest = {MODEL_ARCH.GEMMA2: 46, MODEL_ARCH.GEMMA3: 62}[architecture.arch]
    scalar = config["head_dim"]
    if config["num_hidden_layers"] == largest:
        scalar = config["hidden_size"] // config["num_attention_heads"]
    if config["query_pre_attn_scalar"] != scalar:
        return f"query_pre_attn_scalar other than {scalar}"
    caps = config.get("attn_logit_softcapping"), config.get("final_logit_softcapping")
    if architecture.arch == MODEL_ARCH.GEMMA2 and (
        None in caps or config["sliding_window"] is None
    ):
        return "layers without soft-capping or sliding window"
    if architecture.arch == MODEL_ARCH.GEMMA3 and caps[0]:
        return "attn_logit_softcapping"
    return None


def _every_fourth_without_rope(config: Config) -> bool:
    flags = config.get("no_rope_layers")
    if flags is None:
        return config["no_rope_layer_interval"] == 4
    return all(bool(flag) == bool((layer + 1) % 4) for layer, flag in enumerate(flags))
