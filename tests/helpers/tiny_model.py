"""GGUF models with random weights, made on the spot: real files, but a few hundred kilobytes."""

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

N_EMBD, N_FF, N_HEAD, N_LAYER = 64, 96, 4, 2
D_INNER, D_STATE, D_CONV, DT_RANK = 128, 8, 4, 4  # of Mamba
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
TYPES = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2, *[gguf.TokenType.BYTE] * 256]


def write(
    path: Path,
    arch: str = "llama",
    changes: dict[str, np.ndarray] | None = None,
    *,
    keys: dict[str, int] | None = None,
    tokens: Sequence[str] = TOKENS,
) -> Path:
    """A model of architecture llama, qwen2vl or mamba whose tokens are bytes, always the same.

    `changes` are added to the weights of these names, `keys` to the header as UINT32.
    """
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(4096)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(N_LAYER)
    writer.add_feed_forward_length(0 if arch == "mamba" else N_FF)
    writer.add_head_count(0 if arch == "mamba" else N_HEAD)
    if arch == "llama":
        writer.add_head_count_kv(N_HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    if arch == "qwen2vl":
        writer.add_rope_dimension_sections([2, 3, 3, 0])
    if arch == "mamba":
        writer.add_ssm_conv_kernel(D_CONV)
        writer.add_ssm_inner_size(D_INNER)
        writer.add_ssm_state_size(D_STATE)
        writer.add_ssm_time_step_rank(DT_RANK)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    for key, value in (keys or {}).items():
        writer.add_uint32(key, value)
    writer.add_token_scores([0.0] * len(TOKENS))
    writer.add_token_types(TYPES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    for name, weight in weights(arch).items():
        writer.add_tensor(name, weight + (changes or {}).get(name, np.float32(0)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def weights(arch: str) -> dict[str, np.ndarray]:
    """Random weights by tensor name, float32 [outputs, inputs]."""
    rng = np.random.default_rng(0)
    ends = ("token_embd.weight", "output.weight")
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(ends, (len(TOKENS), N_EMBD))
    for layer in range(N_LAYER):
        block = _mamba_block() if arch == "mamba" else _attention_block(biased=arch == "qwen2vl")
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    made = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    ones = ["output_norm.weight"] + [f"blk.{i}.attn_norm.weight" for i in range(N_LAYER)]
    if arch != "mamba":
        ones += [f"blk.{i}.ffn_norm.weight" for i in range(N_LAYER)]
    made |= {name: np.ones(N_EMBD, np.float32) for name in ones}
    made |= {name: -np.exp(value) for name, value in made.items() if name.endswith("ssm_a")}
    return made


def _attention_block(biased: bool) -> dict[str, tuple[int, ...]]:
    square = {f"attn_{name}.weight": (N_EMBD, N_EMBD) for name in ("q", "k", "v", "output")}
    biases = {f"attn_{name}.bias": (N_EMBD,) for name in "qkv"} if biased else {}
    up = {f"ffn_{name}.weight": (N_FF, N_EMBD) for name in ("gate", "up")}
    return {**square, **biases, **up, "ffn_down.weight": (N_EMBD, N_FF)}


def _mamba_block() -> dict[str, tuple[int, ...]]:
    return {
        "ssm_in.weight": (2 * D_INNER, N_EMBD),
        "ssm_conv1d.weight": (D_INNER, D_CONV),
        "ssm_conv1d.bias": (D_INNER,),
        "ssm_x.weight": (DT_RANK + 2 * D_STATE, D_INNER),
        "ssm_dt.weight": (D_INNER, DT_RANK),
        "ssm_dt.bias": (D_INNER,),
        "ssm_a": (D_INNER, D_STATE),
        "ssm_d": (D_INNER,),
        "ssm_out.weight": (N_EMBD, D_INNER),
    }
