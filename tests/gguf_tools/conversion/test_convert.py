"""A converted model computes in llama.cpp what it computes in transformers."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import save_file
from safetensors.torch import load_file

from reellama.gguf_tools.conversion import gguf_output
from reellama.gguf_tools.conversion.convert import convert
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.text.tokenizer import Tokenizer
from tests.conftest import Result
from tests.helpers import tiny_hf
from tests.helpers.both_logits import TEXT, both_logits, halve_gelu

pytestmark = pytest.mark.numeric

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "vocab_size": 800,
}
STRETCHED = {"rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = STRETCHED | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
WINDOW = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
GRANITE = {
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.4,
    "attention_multiplier": 0.2,
    "logits_scaling": 2.0,
}
EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 5}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0, 2.5],
    "long_factor": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
}
GPT2 = {"n_embd": 64, "n_inner": 96, "n_layer": 3, "n_head": 4, "n_positions": 512}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "llama with biases and wide heads": (
        "LlamaConfig",
        {"head_dim": 24, "attention_bias": True, "mlp_bias": True},
    ),
    "llama 3.1": ("LlamaConfig", {"tie_word_embeddings": True, "rope_parameters": LLAMA3}),
    "llama, linear": (
        "LlamaConfig",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 5e4, "factor": 4.0}},
    ),
    "llama, yarn": ("LlamaConfig", {"rope_parameters": STRETCHED | {"rope_type": "yarn"}}),
    "qwen2, yarn with a factor of its own": (
        "Qwen2Config",
        {"rope_parameters": STRETCHED | {"rope_type": "yarn", "attention_factor": 0.8}},
    ),
    "mistral": ("MistralConfig", {"sliding_window": None}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 32}),
    "qwen3 moe": (
        "Qwen3MoeConfig",
        EXPERTS | {"head_dim": 32, "moe_intermediate_size": 48, "norm_topk_prob": True},
    ),
    "mixtral": ("MixtralConfig", EXPERTS),
    "phi3": ("Phi3Config", {"pad_token_id": 0}),
    "phi3, part of a head rotated": (
        "Phi3Config",
        {"pad_token_id": 0, "rope_parameters": {"partial_rotary_factor": 0.5}},
    ),
    "phi3, long": (
        "Phi3Config",
        {"pad_token_id": 0, "rope_parameters": LONGROPE, "original_max_position_embeddings": 256},
    ),
    "phi3, longer than it began": (
        "Phi3Config",
        {"pad_token_id": 0, "rope_parameters": LONGROPE, "original_max_position_embeddings": 16},
    ),
    "olmo2": ("Olmo2Config", {"pad_token_id": 0}),
    "granite": ("GraniteConfig", GRANITE | {"attention_bias": True, "mlp_bias": True}),
    "granite, tied": ("GraniteConfig", GRANITE | {"tie_word_embeddings": True}),
    "gpt2": ("GPT2Config", GPT2),
    "gpt2, untied": ("GPT2Config", GPT2 | {"tie_word_embeddings": False}),
    "smollm3": ("SmolLM3Config", {"num_hidden_layers": 5, "pad_token_id": 0}),
    "gemma": ("GemmaConfig", {"head_dim": 32}),
    "gemma2": ("Gemma2Config", WINDOW),
    "gemma3": (
        "Gemma3TextConfig",
        WINDOW | {"num_hidden_layers": 7, "rope_parameters": GEMMA3_ROPE},
    ),
    "gemma3, windows elsewhere": (
        "Gemma3TextConfig",
        WINDOW | {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
    ),
}


LLAMA_BPE = "llama-bpe"
# What the models of a family have; those of the others are as Llama 3 has it.
TOKENIZERS = {
    "gemma": "spm without prefix",
    "mistral": "spm without prefix",
    "mixtral": "spm without prefix",
    "phi3": "spm",
    "qwen3 moe": "qwen2",
    "olmo2": "dbrx",
    "granite": "smollm",
    "gpt2": "gpt-2",
}


def make(name: str, folder: Path, **options: Any) -> tuple[Any, Any]:
    """Write the folder of a model of CONFIGS; returns it and its tokenizer."""
    kind, changes = CONFIGS[name]
    sizes = {"vocab_size": 800} if kind == "GPT2Config" else SIZES
    config = getattr(transformers, kind)(**{**sizes, **changes})
    tokens = next((kind for start, kind in TOKENIZERS.items() if name.startswith(start)), LLAMA_BPE)
    spm = tokens.startswith("spm")
    tokenizer = tiny_hf.sentencepiece(tokens == "spm") if spm else tiny_hf.byte_level(tokens)
    fast = tiny_hf.save_tokenizer(tokenizer, folder)
    return tiny_hf.save_model(config, folder, **options), fast


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model, tokenizer = make(name, tmp_path)
    halves = halve_gelu(model)
    result = convert(tmp_path, "F32", tmp_path / "model.gguf")
    theirs, ours = both_logits(model, tokenizer, result.path)
    assert theirs.shape == ours.shape
    assert np.abs(theirs).max() > 2
    difference = np.abs(theirs - ours)
    assert np.median(difference) < 1e-4
    # A number in the middle between two entries of that table may find the one or the other.
    assert difference.max() < (5e-3 if halves else 1e-4)
    assert result.notes == [] or (name.startswith("phi3, long") and len(result.notes) == 1)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a Llama in bfloat16 in one file."""
    folder = tmp_path_factory.mktemp("hf") / "tiny-llama"
    make("llama 3.1", folder, dtype=torch.bfloat16)
    return folder


@pytest.mark.parametrize(("type_", "largest"), [("F16", 0.03), ("BF16", 0.2)])
def test_half_precision_rounds_the_weights_and_nothing_else(
    type_: str, largest: float, tmp_path: Path
) -> None:
    model, tokenizer = make("qwen3", tmp_path)
    result = convert(tmp_path, type_, tmp_path / "model.gguf")
    theirs, ours = both_logits(model, tokenizer, result.path)
    assert 1e-4 < np.abs(theirs - ours).max() < largest
    dtype = torch.float16 if type_ == "F16" else torch.bfloat16
    weights = load_file(tmp_path / "model.safetensors")
    for tensor in gguf.GGUFReader(result.path).tensors:
        vector = len(tensor.shape) == 1
        assert tensor.tensor_type.name == ("F32" if vector else type_)
        if tensor.name == "blk.1.ffn_down.weight":
            rounded = weights["model.layers.1.mlp.down_proj.weight"].to(dtype).float().numpy()
            kept = gguf.dequantize(tensor.data, tensor.tensor_type)
            assert np.array_equal(kept, rounded)
    assert read_gguf(result.path).metadata["general.file_type"] == {"F16": 1, "BF16": 32}[type_]


def test_the_weights_own_type_is_the_default(llama: Path, tmp_path: Path) -> None:
    result = convert(llama, output=tmp_path / "model.gguf")
    types = {tensor.type.name for tensor in read_gguf(result.path).tensors.values()}
    assert result.type == "BF16" and types == {"BF16", "F32"}


def test_shards_make_the_same_file(llama: Path, tmp_path: Path) -> None:
    folder = tiny_hf.edited_copy(llama, tmp_path / "copy")
    (folder / "model.safetensors").unlink()
    make("llama 3.1", folder, dtype=torch.bfloat16, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    whole = convert(llama, output=tmp_path / "whole.gguf").path
    sharded = convert(folder, output=tmp_path / "sharded.gguf").path
    assert data(whole) == data(sharded)
    next(iter(sorted(folder.glob("*.safetensors")))).unlink()
    with pytest.raises(ReellamaError, match=r"lacks 1 of \d+ shards: model-00001-of-"):
        convert(folder, output=tmp_path / "x.gguf")


def data(path: Path) -> dict[str, bytes]:
    return {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(path).tensors}


def test_older_configurations_mean_the_same(llama: Path, tmp_path: Path) -> None:
    old = {"type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling = old | {"original_max_position_embeddings": 64}
    changes = {"rope_scaling": scaling, "rope_theta": 1e4, "head_dim": None}
    folder = tiny_hf.edited_copy(llama, tmp_path / "copy", rope_parameters=None, **changes)
    new = convert(llama, output=tmp_path / "new.gguf").path
    assert data(convert(folder, output=tmp_path / "old.gguf").path) == data(new)
    metadata = {**read_gguf(new).metadata, "general.name": "Copy"}
    assert read_gguf(tmp_path / "old.gguf").metadata == metadata


def test_smollm2_comes_back_as_it_was(smollm2: Path, tmp_path: Path) -> None:
    """Its first layer, taken out of the GGUF as transformers would have it, and its tokenizer."""
    file = read_gguf(smollm2)
    tiny_hf.save_unpacked(file, tmp_path, n_layers=1)
    back = read_gguf(convert(tmp_path, "F32", tmp_path / "model.gguf").path)
    kept = [name for name in file.tensors if name.startswith("blk.0.") or "blk." not in name]
    assert sorted(back.tensors) == sorted(kept)
    for name in kept:
        assert np.array_equal(tiny_hf.numbers(back, name), tiny_hf.numbers(file, name)), name
    added = {"llama.attention.key_length": 64, "llama.attention.value_length": 64}
    added |= {"tokenizer.ggml.add_eos_token": False, "tokenizer.ggml.eot_token_id": 2}
    for key, value in {**file.metadata, **added, "llama.block_count": 1}.items():
        if key.startswith(("llama.", "tokenizer.")):
            assert back.metadata[key] == value, key
    with Tokenizer.from_path(smollm2) as before, Tokenizer.from_path(back.path) as after:
        text = TEXT + Path(__file__).read_text(encoding="utf-8")
        assert before.encode(text) == after.encode(text)
        assert before.encode("<|im_end|>", special=True) == after.encode("<|im_end|>", special=True)


def test_a_model_that_sees_gives_its_language_model(tmp_path: Path) -> None:
    model, tokenizer = make("gemma3", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    renamed = {f"language_model.{name}": value.numpy() for name, value in weights.items()}
    renamed["vision_tower.patch.weight"] = np.zeros((4, 4), np.float32)
    save_file(renamed, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    outer = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": config}
    (tmp_path / "config.json").write_text(json.dumps(outer))
    result = convert(tmp_path, "F32", tmp_path / "model.gguf")
    theirs, ours = both_logits(model, tokenizer, result.path)
    assert (theirs.argmax(axis=1) == ours.argmax(axis=1)).all()


def test_a_window_that_llama_cpp_has_not_is_told(llama: Path, tmp_path: Path) -> None:
    mistral = {"architectures": ["MistralForCausalLM"], "sliding_window": 128}
    folder = tiny_hf.edited_copy(llama, tmp_path / "copy", **mistral)
    assert "after 128 positions" in convert(folder, output=tmp_path / "m.gguf").notes[0]


def test_memory_does_not_grow_with_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_output, "CHUNK", 1 << 16)
    config = tiny_hf.llama_config(8_000, hidden_size=512, tie_word_embeddings=True)
    tiny_hf.save_tokenizer(tiny_hf.byte_level("gpt-2"), tmp_path)
    tiny_hf.save_model(config, tmp_path, torch.bfloat16)
    tracemalloc.start()
    result = convert(tmp_path, "F32", tmp_path / "model.gguf")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.n_bytes > 16e6
    assert peak < 8e6


def test_the_command_writes_a_file_once(
    llama: Path, tmp_path: Path, reellama: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = reellama("gguf", "convert", llama, "f16")
    assert (first.status, first.out) == (0, "tiny-llama-F16.gguf\n")
    assert "F16" in first.err
    assert Tokenizer.from_path(tmp_path / "tiny-llama-F16.gguf").encode("the")
    again = reellama("gguf", "convert", llama, "F16")
    assert again.status == 1
    assert "tiny-llama-F16.gguf is there already; --force replaces it" in again.err
    assert reellama("gguf", "convert", llama, "F16", "--force").status == 0
    other = reellama("gguf", "convert", llama, "Q4_K_M", "--output", tmp_path / "q.gguf")
    assert other.status == 2
    assert "give F32, F16, BF16, Q8_0, and quantize the result" in other.err
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-llama-F16.gguf"]
