"""Rows of the token embeddings, scaled as the header says, act as their token ids do.

Some architectures scale embeddings inside llama.cpp's graph, and which of its inputs they scale is
llama.cpp's choice and can change with its version. So each is tried with a small random model.
"""

from pathlib import Path

import llama_cpp.llama_cpp as llama
import numpy as np
import pytest
from gguf import GGUFWriter

from reellama.gguf_tools.format.reader import read_gguf, token_embeddings
from reellama.gguf_tools.runtime.backend import load_model

pytestmark = pytest.mark.numeric

N_EMBD, N_FF, N_HEAD, N_LAYER, N_VOCAB = 64, 96, 2, 2, 50
TOKENS = [3, 14, 15, 9, 2, 6]


def write_random_model(path: Path, architecture: str) -> None:
    """Write a GGUF that llama.cpp loads, of random weights and without a tokenizer."""
    random = np.random.default_rng(0)
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(N_LAYER)
    writer.add_context_length(64)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD)
    writer.add_key_length(N_EMBD // N_HEAD)
    writer.add_value_length(N_EMBD // N_HEAD)
    writer.add_rope_dimension_count(N_EMBD // N_HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_sliding_window(32)
    writer.add_vocab_size(N_VOCAB)
    writer.add_tokenizer_model("no_vocab")
    if architecture in ("granite", "minicpm"):
        writer.add_embedding_scale(3.0)
        writer.add_residual_scale(1.5)
        writer.add_logit_scale(2.0)
        writer.add_attention_scale(0.2)

    def add(name: str, *shape: int) -> None:
        weights = random.normal(0, 0.3, shape) if len(shape) > 1 else random.uniform(0.5, 1, shape)
        writer.add_tensor(f"{name}.weight", weights.astype(np.float32))

    add("token_embd", N_VOCAB, N_EMBD)
    add("output_norm", N_EMBD)
    for layer in (f"blk.{index}" for index in range(N_LAYER)):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"{layer}.{name}", N_EMBD, N_EMBD)
        add(f"{layer}.ffn_gate", N_FF, N_EMBD)
        add(f"{layer}.ffn_up", N_FF, N_EMBD)
        add(f"{layer}.ffn_down", N_EMBD, N_FF)
        add(f"{layer}.attn_norm", N_EMBD)
        add(f"{layer}.ffn_norm", N_EMBD)
        if architecture in ("gemma2", "gemma3"):
            add(f"{layer}.post_attention_norm", N_EMBD)
            add(f"{layer}.post_ffw_norm", N_EMBD)
        if architecture == "gemma3":
            add(f"{layer}.attn_q_norm", N_EMBD // N_HEAD)
            add(f"{layer}.attn_k_norm", N_EMBD // N_HEAD)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def logits_of(path: Path, soft_tokens: np.ndarray | None) -> np.ndarray:
    """Decode TOKENS, by their ids or as soft tokens: the logits at the last position."""
    with load_model(path) as model:
        parameters = llama.llama_context_default_params()
        parameters.n_ctx, parameters.n_threads, parameters.n_threads_batch = 64, 1, 1
        context = llama.llama_init_from_model(model.ptr, parameters)
        embd = 0 if soft_tokens is None else N_EMBD
        batch = llama.llama_batch_init(len(TOKENS), embd, 1)
        batch.n_tokens = len(TOKENS)
        for i, token in enumerate(TOKENS):
            batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = i, 1, 0
            batch.logits[i] = i == len(TOKENS) - 1
            if soft_tokens is None:
                batch.token[i] = token
            else:
                for j, value in enumerate(soft_tokens[i]):
                    batch.embd[i * N_EMBD + j] = value
        assert llama.llama_decode(context, batch) == 0
        logits = np.ctypeslib.as_array(llama.llama_get_logits_ith(context, -1), (N_VOCAB,)).copy()
        llama.llama_batch_free(batch)
        llama.llama_free(context)
    return logits


@pytest.mark.parametrize(
    ("architecture", "scale"),
    [
        ("llama", 1.0),
        ("gemma", 1.0),
        ("gemma2", 1.0),
        ("gemma3", 8.0),  # the square root of 64
        ("granite", 1.0),
        ("minicpm", 1.0),
    ],
)
def test_soft_tokens_act_as_the_tokens_they_are_rows_of(
    tmp_path: Path, architecture: str, scale: float
) -> None:
    path = tmp_path / "random.gguf"
    write_random_model(path, architecture)
    assert read_gguf(path).embedding_scale == scale
    expected = logits_of(path, None)
    rows = token_embeddings(path, TOKENS)
    np.testing.assert_allclose(logits_of(path, rows * scale), expected, atol=1e-5)
    # The models tell a wrong scale: the test could fail.
    assert np.abs(logits_of(path, rows * scale * 2) - expected).max() > 1e-3
