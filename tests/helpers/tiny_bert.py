"""A BERT of random weights as GGUF: an encoder, which sees a text as a whole."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

N_EMBD, N_FF, N_LAYER, N_CTX = 32, 64, 2, 128
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [chr(ord("a") + i) for i in range(26)]
TOKENS = [*SPECIAL, *(f"\u2581{letter}" for letter in LETTERS), *LETTERS]  # ▁ begins a word


def write(path: Path) -> Path:
    """Write one whose tokens are letters."""
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(N_CTX)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_block_count(N_LAYER)
    writer.add_head_count(4)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(TOKENS)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control] * len(SPECIAL) + [normal] * (len(TOKENS) - len(SPECIAL)))
    writer.add_token_type_count(2)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(3)
    writer.add_sep_token_id(3)
    for name, weight in _weights().items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(TOKENS), N_EMBD),
        "position_embd.weight": (N_CTX, N_EMBD),
        "token_types.weight": (2, N_EMBD),
    }
    norms = ["token_embd_norm"]
    for layer in range(N_LAYER):
        block = f"blk.{layer}."
        square = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (N_EMBD, N_EMBD))
        for name, shape in {**square, "ffn_up": (N_FF, N_EMBD), "ffn_down": (N_EMBD, N_FF)}.items():
            shapes |= {f"{block}{name}.weight": shape, f"{block}{name}.bias": shape[:1]}
        norms += [f"{block}attn_output_norm", f"{block}layer_output_norm"]
    made = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    made |= {f"{name}.weight": np.ones(N_EMBD, np.float32) for name in norms}
    return made | {f"{name}.bias": np.zeros(N_EMBD, np.float32) for name in norms}
