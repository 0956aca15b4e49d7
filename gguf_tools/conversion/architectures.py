"""The Hugging Face architectures that can be converted, and how they map to llama.cpp's.

The Hugging Face side follows the config classes and models of the transformers library, the other
side llama.cpp's `src/models`. llama.cpp does not check a model: variants that it would compute
wrongly are refused here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguf import MODEL_ARCH

from reellama.gguf_tools.conversion.hf_folder import read_json, reporting_damage
from reellama.gguf_tools.errors import ReellamaError

Config = Mapping[str, Any]

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
SILU = frozenset({"silu", "swish"})
# Google's first config files write "gelu" for its tanh approximation.
GELU = frozenset({"gelu_pytorch_tanh", "gelu_new", "gelu"})


@dataclass(frozen=True)
class Architecture:
    """How to write the weights of a Hugging Face architecture for llama.cpp."""

    arch: MODEL_ARCH
    activations: frozenset[str]
    # llama.cpp rotates pairs of neighbouring numbers where transformers rotates one half of a head
    # against the other, so the rows of queries and keys change places.
    interleaves_heads: bool = False
    norm_offset: float = 0.0  # transformers multiplies by this more than the weight
    window_pattern: int = 0  # each layer but every n-th has a sliding window; 0: llama.cpp has none
    # The defaults of transformers for keys that config.json leaves out.
    defaults: Config = field(default_factory=dict)


_COMMON = {"rms_norm_eps": 1e-6, "rope_theta": 10_000.0, "tie_word_embeddings": False}
_QWEN = _COMMON | {
    "num_key_value_heads": 32,
    "max_position_embeddings": 32_768,
    "use_sliding_window": False,
}
_GEMMA = _COMMON | {"tie_word_embeddings": True, "head_dim": 256, "max_position_embeddings": 8192}
_LAYERED = _GEMMA | {"num_key_value_heads": 4, "sliding_window": 4096, "query_pre_attn_scalar": 256}

_QWEN25VL = _QWEN | {
    "num_key_value_heads": 8,
    "rope_theta": 1_000_000.0,
    "rms_norm_eps": 1e-5,
    # Of the rotated pairs of a head, how many turn by time, by row and by column.
    "mrope_section": (16, 24, 24),
}
_GEMMA3 = Architecture(
    MODEL_ARCH.GEMMA3,
    GELU,
    norm_offset=1.0,
    window_pattern=6,
    defaults=_LAYERED
    | {
        # Its multimodal config.json writes only what differs from the defaults.
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "max_position_embeddings": 131_072,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
    },
)
ARCHITECTURES = {
    "LlamaForCausalLM": Architecture(
        MODEL_ARCH.LLAMA,
        SILU,
        interleaves_heads=True,
        defaults=_COMMON | {"max_position_embeddings": 2048},
    ),
    "MistralForCausalLM": Architecture(
        MODEL_ARCH.LLAMA,
        SILU,
        interleaves_heads=True,
        defaults=_COMMON
        | {
            "num_key_value_heads": 8,
            "max_position_embeddings": 131_072,
            "sliding_window": 4096,
        },
    ),
    "SmolLM3ForCausalLM": Architecture(
        MODEL_ARCH.SMOLLM3,
        SILU,
        interleaves_heads=True,
        defaults=_COMMON
        | {
            "num_key_value_heads": 4,
            "max_position_embeddings": 32_768,
            "rope_theta": 2_000_000.0,
            "tie_word_embeddings": True,
            "no_rope_layer_interval": 4,
        },
    ),
    "Qwen2ForCausalLM": Architecture(
        MODEL_ARCH.QWEN2,
        SILU,
        defaults=_QWEN,
    ),
    "Qwen3ForCausalLM": Architecture(
        MODEL_ARCH.QWEN3,
        SILU,
        defaults=_QWEN | {"head_dim": 128},
    ),
    "GemmaForCausalLM": Architecture(
        MODEL_ARCH.GEMMA, GELU, norm_offset=1.0, defaults=_GEMMA | {"num_key_value_heads": 16}
    ),
    "Gemma2ForCausalLM": Architecture(
        MODEL_ARCH.GEMMA2,
        GELU,
        norm_offset=1.0,
        window_pattern=2,
        defaults=_LAYERED | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    ),
    "Gemma3ForCausalLM": _GEMMA3,
    "Gemma3ForConditionalGeneration": _GEMMA3,
    "Qwen2_5_VLForConditionalGeneration": Architecture(
        MODEL_ARCH.QWEN2VL, SILU, defaults=_QWEN25VL
    ),
}
# Models that see, around one of several language models. What their text_config leaves out has the
# defaults of that language model's configuration.
AROUND_A_LANGUAGE_MODEL = (
    "LlavaForConditionalGeneration",
    "LlavaOnevisionForConditionalGeneration",
    "Idefics3ForConditionalGeneration",
    "SmolVLMForConditionalGeneration",
)
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
LANGUAGE_MODELS: dict[str, tuple[str, tuple[int, int, int, int]]] = {
    "llama": ("LlamaForCausalLM", (4096, 11_008, 32, 32)),
    "mistral": ("MistralForCausalLM", (4096, 14_336, 32, 32)),
    "qwen2": ("Qwen2ForCausalLM", (4096, 22_016, 32, 32)),
}


def read_config(folder: Path) -> tuple[Architecture, dict[str, Any]]:
    """Return the architecture of a folder's model and its configuration, defaults filled in.

    For a vision-language model, these are the language model's. Raises ReellamaError, in one line,
    for a folder without config.json, an unknown architecture, or a variant of one that llama.cpp
    would compute wrongly.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ReellamaError(f"{folder} is not a model's folder: {_why_no_config(folder)}")
    config = read_json(path)
    with reporting_damage(path):
        return _checked(path, config)


def _checked(path: Path, config: dict[str, Any]) -> tuple[Architecture, dict[str, Any]]:
    name = str((config.get("architectures") or ["none"])[0])
    sizes: Config = {}
    if name in AROUND_A_LANGUAGE_MODEL:
        name, sizes = _language_model(path, config)
    if name not in ARCHITECTURES:
        known = ", ".join((*ARCHITECTURES, *AROUND_A_LANGUAGE_MODEL))
        raise ReellamaError(f"{path}: the architecture {name} is not known; known are: {known}")
    if quantization := config.get("quantization_config"):
        method = quantization.get("quant_method", "unknown")
        raise ReellamaError(
            f"{path}: the weights are quantized already ({method}); take the original model"
        )
    architecture = ARCHITECTURES[name]
    config = {**architecture.defaults, **sizes, **config, **(config.get("text_config") or {})}
    for key in _SIZES:
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
    if reason := _why_not(architecture, config):
        raise ReellamaError(f"{path}: llama.cpp has no {reason} in models of this architecture")
    return architecture, config


def _language_model(path: Path, config: Config) -> tuple[str, Config]:
    """The architecture of the language model in a model that sees, and its default sizes."""
    kind = (config.get("text_config") or {}).get("model_type") or "llama"
    if kind not in LANGUAGE_MODELS:
        raise ReellamaError(
            f"{path}: the language model {kind!r:.80} is not known in a model that sees; known "
            f"are: {', '.join(LANGUAGE_MODELS)}"
        )
    name, sizes = LANGUAGE_MODELS[kind]
    return name, dict(zip(_SIZES, sizes, strict=True))


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
    if (folder / "adapter_config.json").is_file():
        return "it has a LoRA adapter, which must be merged into its model first"
    return "it has no config.json"


def _why_not(architecture: Architecture, config: Config) -> str | None:
    """The feature of a model that llama.cpp's graph for its architecture lacks, or None."""
    activation = config.get("hidden_activation") or config.get("hidden_act")
    if activation is not None and activation not in architecture.activations:
        return f"activation {activation}"
    if config.get("use_bidirectional_attention"):
        return "attention to both sides"
    if config["head_dim"] * config["num_attention_heads"] != config["hidden_size"] and (
        architecture.arch in (MODEL_ARCH.QWEN2, MODEL_ARCH.QWEN2VL)
    ):
        return "head_dim that differs from hidden_size / num_attention_heads"
    if architecture.arch == MODEL_ARCH.SMOLLM3 and not _every_fourth_without_rope(config):
        return "no_rope_layers other than every fourth"
    if architecture.arch in (MODEL_ARCH.GEMMA2, MODEL_ARCH.GEMMA3):
        return _why_not_gemma(architecture, config)
    return None


def _why_not_gemma(architecture: Architecture, config: Config) -> str | None:
    # llama.cpp takes hidden_size / heads in the largest models, which it knows by their layers.
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
