"""The Hugging Face architectures that can be converted, and how they map to llama.cpp's.

Sources: config classes and models of the transformers library, and llama.cpp's `src/models`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gguf import MODEL_ARCH

Config = Mapping[str, Any]

SILU = frozenset({"silu", "swish"})
# Google's first config files write "gelu" for its tanh approximation.
GELU = frozenset({"gelu_pytorch_tanh", "gelu_new", "gelu"})
GELU_TANH = frozenset({"gelu_pytorch_tanh", "gelu_new"})


@dataclass(frozen=True)
class Architecture:
    """How to write the weights of a Hugging Face architecture for llama.cpp."""

    arch: MODEL_ARCH
    activations: frozenset[str]
    # RoPE rotates pairs of neighbouring values in llama.cpp, and one half of a head with the other
    # in transformers, so the rows of queries and keys must be permuted.
    interleaves_heads: bool = False
    norm_offset: float = 0.0  # transformers multiplies by weight + norm_offset
    window_pattern: int = 0  # all layers but every n-th have a sliding window; 0 for no windows
    has_experts: bool = False  # in every layer
    # GPT-2 has learned positions in place of RoPE, LayerNorm, and transposed matrices.
    is_gpt2: bool = False
    names: Mapping[str, str] = field(default_factory=dict)  # common config key -> its own key
    # transformers' defaults for keys that config.json leaves out.
    defaults: Config = field(default_factory=dict)


_COMMON = {"rms_norm_eps": 1e-6, "rope_theta": 10_000.0, "tie_word_embeddings": False}
_QWEN = _COMMON | {
    "num_key_value_heads": 32,
    "max_position_embeddings": 32_768,
    "use_sliding_window": False,
}
_GEMMA = _COMMON | {"tie_word_embeddings": True, "head_dim": 256, "max_position_embeddings": 8192}
_GEMMA2 = _GEMMA | {"num_key_value_heads": 4, "sliding_window": 4096, "query_pre_attn_scalar": 256}

_QWEN25VL = _QWEN | {
    "num_key_value_heads": 8,
    "rope_theta": 1_000_000.0,
    "rms_norm_eps": 1e-5,
    # How many of a head's rotated pairs encode time, row and column.
    "mrope_section": (16, 24, 24),
}
_GEMMA3 = Architecture(
    MODEL_ARCH.GEMMA3,
    GELU,
    norm_offset=1.0,
    window_pattern=6,
    defaults=_GEMMA2
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
    "MixtralForCausalLM": Architecture(
        MODEL_ARCH.LLAMA,
        SILU,
        interleaves_heads=True,
        has_experts=True,
        defaults=_COMMON
        | {
            "rms_norm_eps": 1e-5,
            "rope_theta": 1_000_000.0,
            "num_key_value_heads": 8,
            "max_position_embeddings": 131_072,
            "num_experts": 8,
            "num_experts_per_tok": 2,
        },
    ),
    "GraniteForCausalLM": Architecture(
        MODEL_ARCH.GRANITE,
        SILU,
        interleaves_heads=True,
        defaults=_COMMON
        | {
            "max_position_embeddings": 2048,
            "embedding_multiplier": 1.0,
            "residual_multiplier": 1.0,
            "attention_multiplier": 1.0,
            "logits_scaling": 1.0,
        },
    ),
    "Olmo2ForCausalLM": Architecture(
        MODEL_ARCH.OLMO2,
        SILU,
        defaults=_COMMON | {"rms_norm_eps": 1e-5, "max_position_embeddings": 2048},
    ),
    "Phi3ForCausalLM": Architecture(
        MODEL_ARCH.PHI3,
        SILU,
        defaults=_COMMON
        | {
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
        },
    ),
    "GPT2LMHeadModel": Architecture(
        MODEL_ARCH.GPT2,
        GELU_TANH,
        is_gpt2=True,
        names={
            "hidden_size": "n_embd",
            "intermediate_size": "n_inner",
            "num_hidden_layers": "n_layer",
            "num_attention_heads": "n_head",
            "max_position_embeddings": "n_positions",
            "hidden_act": "activation_function",
        },
        defaults={
            "n_positions": 1024,
            "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": True,
            "scale_attn_weights": True,
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
    "Qwen3MoeForCausalLM": Architecture(
        MODEL_ARCH.QWEN3MOE,
        SILU,
        has_experts=True,
        defaults=_QWEN
        | {
            "num_key_value_heads": 4,
            "intermediate_size": 6144,
            "moe_intermediate_size": 768,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "norm_topk_prob": False,
            "decoder_sparse_step": 1,
        },
    ),
    "GemmaForCausalLM": Architecture(
        MODEL_ARCH.GEMMA, GELU, norm_offset=1.0, defaults=_GEMMA | {"num_key_value_heads": 16}
    ),
    "Gemma2ForCausalLM": Architecture(
        MODEL_ARCH.GEMMA2,
        GELU,
        norm_offset=1.0,
        window_pattern=2,
        defaults=_GEMMA2 | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    ),
    "Gemma3ForCausalLM": _GEMMA3,
    "Gemma3ForConditionalGeneration": _GEMMA3,
    "Qwen2_5_VLForConditionalGeneration": Architecture(
        MODEL_ARCH.QWEN2VL, SILU, defaults=_QWEN25VL
    ),
}
# Vision models with one of several language models, whose defaults fill in their text_config.
VISION_LANGUAGE_ARCHITECTURES = (
    "LlavaForConditionalGeneration",
    "LlavaOnevisionForConditionalGeneration",
    "Idefics3ForConditionalGeneration",
    "SmolVLMForConditionalGeneration",
)
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
LANGUAGE_MODELS: dict[str, tuple[str, tuple[int, int, int, int]]] = {
    "llama": ("LlamaForCausalLM", (4096, 11_008, 32, 32)),
    "mistral": ("MistralForCausalLM", (4096, 14_336, 32, 32)),
    "qwen2": ("Qwen2ForCausalLM", (4096, 22_016, 32, 32)),
}
