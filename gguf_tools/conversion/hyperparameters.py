"""Convert the hyperparameters of a model: config.json -> metadata of a GGUF."""

from __future__ import annotations

import math

import numpy as np
from gguf import MODEL_ARCH, GGUFWriter, RopeScalingType

from reellama.gguf_tools.conversion.architectures import Architecture, Config
from reellama.gguf_tools.conversion.model_config import has_window
from reellama.gguf_tools.errors import ReellamaError

GLOBAL_ATTENTION, SLIDING_ATTENTION = "full_attention", "sliding_attention"
# Architectures for which llama.cpp divides frequencies by the tensor rope_freqs.weight.
TAKES_FREQUENCY_FACTORS = frozenset({MODEL_ARCH.LLAMA})
YARN_BETAS = (32, 1)  # fast and slow; llama.cpp uses only these for these architectures


def add_hyperparameters(writer: GGUFWriter, architecture: Architecture, config: Config) -> None:
    """Add all of a model's hyperparameters that llama.cpp reads, without the tokenizer's.

    Raises ReellamaError for a kind of RoPE scaling that llama.cpp does not have.
    """
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    if architecture.has_experts:
        writer.add_expert_count(config["num_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
        if "moe_intermediate_size" in config:
            writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if architecture.is_gpt2:
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
        return
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if architecture.window_pattern:
        _add_window(writer, architecture, config)
    if architecture.arch == MODEL_ARCH.GRANITE:
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])
    if architecture.arch == MODEL_ARCH.PHI3:
        # llama.cpp does not use the window, but recognizes Phi-4 by the value 0.
        writer.add_sliding_window(config.get("sliding_window") or 0)
    if attention_cap := config.get("attn_logit_softcapping"):
        writer.add_attn_logit_softcapping(attention_cap)
    if final_cap := config.get("final_logit_softcapping"):
        writer.add_final_logit_softcapping(final_cap)
    _add_rope(writer, architecture, config)


def notes(architecture: Architecture, config: Config) -> list[str]:
    """Return lines for users about where llama.cpp only approximates the model."""
    if architecture.is_gpt2:
        return []
    lines = []
    # Qwen's config.json has a window even if it is not used.
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    if window and not architecture.window_pattern and window < config["max_position_embeddings"]:
        lines.append(
            f"llama.cpp has no sliding window for this architecture: after {window:,} positions "
            "it attends to more than the model was trained to"
        )
    if rope_parameters(config, GLOBAL_ATTENTION)["rope_type"] == "dynamic":
        lines.append(
            "llama.cpp has no dynamic rope scaling: the same up to "
            f"{config['max_position_embeddings']:,} positions, and wrong after them"
        )
    first = config.get("original_max_position_embeddings", 0)
    if is_longrope(architecture, config) and first < config["max_position_embeddings"]:
        lines.append(
            f"llama.cpp takes rope's factors for long texts with a context of more than {first:,} "
            "positions, also where a text is short"
        )
    return lines


def is_longrope(architecture: Architecture, config: Config) -> bool:
    """Whether a model has LongRoPE, https://arxiv.org/abs/2402.13753, which older files of Phi-3
    call "su" or "yarn"."""
    kind = rope_parameters(config, GLOBAL_ATTENTION)["rope_type"]
    return architecture.arch == MODEL_ARCH.PHI3 and kind in ("longrope", "su", "yarn")


def rope_parameters(config: Config, layers: str) -> Config:
    """Return the RoPE parameters of layers with `full_attention` or `sliding_attention`.

    transformers 5 writes them as `rope_parameters`, possibly one set for each kind of layer. Older
    versions wrote `rope_theta`, `rope_scaling` and, for Gemma 3, `rope_local_base_freq`.
    """
    new = config.get("rope_parameters") or {}
    if any(isinstance(value, dict) for value in new.values()):
        new = new.get(layers) or {}
    theta = config["rope_theta"]
    old = config.get("rope_scaling") or {}
    if layers == SLIDING_ATTENTION and "rope_local_base_freq" in config:
        theta, old = config["rope_local_base_freq"], {}
    rope = {"rope_theta": theta, **old, **new}
    rope["rope_type"] = str(rope.get("rope_type") or rope.get("type") or "default").lower()
    return rope


def frequency_factors(architecture: Architecture, config: Config) -> dict[str, np.ndarray]:
    """Return the divisors of RoPE's frequencies as tensors of llama.cpp, float32 `[n_rot / 2]`.

    LongRoPE has two sets: for texts that fit the original context, and for longer ones.
    """
    if architecture.is_gpt2:
        return {}
    rope = rope_parameters(config, GLOBAL_ATTENTION)
    if is_longrope(architecture, config):
        long, short = (np.array(rope[f"{kind}_factor"], np.float32) for kind in ("long", "short"))
        n_pairs = n_rotated(config) // 2
        if {long.shape, short.shape} != {(n_pairs,)}:
            raise ReellamaError(f"long_factor and short_factor are not {n_pairs} numbers each")
        return {"rope_factors_long.weight": long, "rope_factors_short.weight": short}
    factors = _llama3_factors(architecture, config)
    return {} if factors is None else {"rope_freqs.weight": factors}


def n_rotated(config: Config) -> int:
    """How many dimensions of a head RoPE rotates."""
    rope = rope_parameters(config, GLOBAL_ATTENTION)
    partial = rope.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    return int(config["head_dim"] * (1 if partial is None else partial))


def _llama3_factors(architecture: Architecture, config: Config) -> np.ndarray | None:
    """Return the divisors of RoPE's frequencies in Llama 3.1's scaling, float32 `[head_dim / 2]`,
    or None for another scaling.

    Frequencies of short wavelengths, compared with the original context, stay as they are. Those of
    long wavelengths are divided by `factor`. Between them, the divisor is interpolated.
    """
    rope = rope_parameters(config, GLOBAL_ATTENTION)
    if rope["rope_type"] != "llama3":
        return None
    if architecture.arch not in TAKES_FREQUENCY_FACTORS:
        raise _no_such_scaling("llama3")
    exponents = np.arange(0, config["head_dim"], 2, dtype=np.float64) / config["head_dim"]
    waves = 2 * math.pi * float(rope["rope_theta"]) ** exponents  # lengths in positions
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    unscaled = np.clip((_first_context(config, rope) / waves - low) / (high - low), 0, 1)
    return (1 / ((1 - unscaled) / rope["factor"] + unscaled)).astype(np.float32)


def _add_window(writer: GGUFWriter, architecture: Architecture, config: Config) -> None:
    windows = has_window(architecture, config)
    if not any(windows):
        return
    writer.add_sliding_window(config["sliding_window"])
    every = architecture.window_pattern
    if windows != [bool((layer + 1) % every) for layer in range(len(windows))]:
        writer.add_sliding_window_pattern(windows)
    local = rope_parameters(config, SLIDING_ATTENTION)
    if local["rope_type"] != "default" and local != rope_parameters(config, GLOBAL_ATTENTION):
        raise _no_such_scaling(f"{local['rope_type']} in layers with a sliding window")
    if local["rope_theta"] != rope_parameters(config, GLOBAL_ATTENTION)["rope_theta"]:
        writer.add_rope_freq_base_swa(local["rope_theta"])


def _add_rope(writer: GGUFWriter, architecture: Architecture, config: Config) -> None:
    rope = rope_parameters(config, GLOBAL_ATTENTION)
    n_rot = n_rotated(config)
    if n_rot != config["head_dim"] and architecture.arch != MODEL_ARCH.PHI3:
        partial = n_rot / config["head_dim"]
        raise ReellamaError(f"llama.cpp has no partial_rotary_factor {partial:.3g} here")
    writer.add_rope_dimension_count(n_rot)
    writer.add_rope_freq_base(rope["rope_theta"])
    kind = rope["rope_type"]
    if architecture.arch == MODEL_ARCH.PHI3:
        writer.add_rope_scaling_orig_ctx_len(config["original_max_position_embeddings"])
    if is_longrope(architecture, config):
        writer.add_rope_scaling_attn_factors(_longrope_scale(config, rope))
        return
    if architecture.arch == MODEL_ARCH.QWEN2VL:
        _add_sections(writer, config, rope)
        kind = "default" if kind == "mrope" else kind
    if kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif kind == "yarn":
        _add_yarn(writer, config, rope)
    elif kind not in ("default", "llama3", "dynamic"):
        raise _no_such_scaling(kind)


def _add_sections(writer: GGUFWriter, config: Config, rope: Config) -> None:
    """M-RoPE of Qwen2-VL, https://arxiv.org/abs/2409.12191."""
    sections = list(rope.get("mrope_section") or config["mrope_section"])
    if len(sections) != 3 or 2 * sum(sections) != config["head_dim"]:
        raise ReellamaError(
            f"mrope_section {sections} does not have half of head_dim {config['head_dim']}"
        )
    writer.add_rope_dimension_sections([*sections, 0])  # llama.cpp has room for a fourth


def _add_yarn(writer: GGUFWriter, config: Config, rope: Config) -> None:
    """YaRN, https://arxiv.org/abs/2309.00071."""
    betas = rope.get("beta_fast") or YARN_BETAS[0], rope.get("beta_slow") or YARN_BETAS[1]
    if betas != YARN_BETAS or rope.get("truncate") is False:
        raise _no_such_scaling("yarn with beta_fast, beta_slow or truncate of its own")
    first = _first_context(config, rope)
    factor = rope.get("factor") or config["max_position_embeddings"] / first
    writer.add_rope_scaling_type(RopeScalingType.YARN)
    writer.add_rope_scaling_factor(factor)
    writer.add_rope_scaling_orig_ctx_len(first)
    scale = rope.get("attention_factor")
    if scale is None and rope.get("mscale") and rope.get("mscale_all_dim"):
        scale = _yarn_scale(factor, rope["mscale"]) / _yarn_scale(factor, rope["mscale_all_dim"])
    if scale is not None:  # llama.cpp multiplies this factor by the paper's
        writer.add_rope_scaling_attn_factors(scale / _yarn_scale(factor, 1))


def _longrope_scale(config: Config, rope: Config) -> float:
    """LongRoPE's factor on queries and keys."""
    if (factor := rope.get("attention_factor")) is not None:
        return float(factor)
    first = config["original_max_position_embeddings"]
    factor = rope.get("factor") or config["max_position_embeddings"] / first
    return math.sqrt(1 + math.log(factor) / math.log(first)) if factor > 1 else 1.0


def _yarn_scale(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1 if factor > 1 else 1.0


def _first_context(config: Config, rope: Config) -> int:
    """The original context length, before it was extended by RoPE scaling."""
    key = "original_max_position_embeddings"
    return int(rope.get(key) or config.get(key) or config["max_position_embeddings"])


def _no_such_scaling(kind: str) -> ReellamaError:
    return ReellamaError(f"llama.cpp has no rope scaling {kind} for models of this architecture")
