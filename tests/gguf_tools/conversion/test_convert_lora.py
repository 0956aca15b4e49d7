"""A LoRA adapter of PEFT changes in llama.cpp what it changes in transformers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file

from reellama.gguf_tools.conversion.convert import convert
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import read_gguf
from tests.conftest import Result
from tests.gguf_tools.conversion.test_convert import make
from tests.helpers.both_logits import both_logits, halve_gelu

peft = pytest.importorskip("peft")

pytestmark = pytest.mark.numeric

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
RANKS = {"rank_pattern": {"q_proj": 6}, "alpha_pattern": {"layers.1.mlp.up_proj": 3}}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "attention, heads interleaved": ("llama", {"target_modules": ATTENTION}),
    "all matrices": ("qwen3", {"target_modules": "all-linear"}),
    "ranks and alphas of their own": (
        "llama",
        {"target_modules": [*ATTENTION, "up_proj"], **RANKS},
    ),
    "rank-stabilized": ("qwen3", {"target_modules": ATTENTION, "use_rslora": True, **RANKS}),
    "the token embeddings": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
    "the output": ("qwen2", {"target_modules": ["lm_head", "down_proj"]}),
    "queries, keys and values in one": ("phi3", {"target_modules": ["qkv_proj", "gate_up_proj"]}),
    "rows for inputs": ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"]}),
    "beside experts": ("mixtral", {"target_modules": ATTENTION}),
}


def adapt(name: str, settings: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    """Write the folders `model` and `adapter`; returns the model with the adapter, and a tokenizer.

    Both matrices of each module are random: a fresh B is zero, and would change nothing.
    """
    model, tokenizer = make(name, folder / "model")
    config = peft.LoraConfig(r=4, lora_alpha=6, **settings)
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for parameter_name, weight in adapted.named_parameters():
            if "lora_" in parameter_name:
                weight.copy_(torch.randn_like(weight) * 0.2)
    adapted.save_pretrained(folder / "adapter")
    return adapted.eval(), tokenizer


@pytest.mark.parametrize("kind", KINDS)
def test_logits_with_an_adapter_are_those_of_peft(kind: str, tmp_path: Path) -> None:
    name, settings = KINDS[kind]
    adapted, tokenizer = adapt(name, settings, tmp_path)
    halves = halve_gelu(adapted)
    model = convert(tmp_path / "model", "F32", tmp_path / "model.gguf").path
    adapter = convert(
        tmp_path / "adapter", "F32", tmp_path / "adapter.gguf", base=tmp_path / "model"
    )
    theirs, ours = both_logits(adapted, tokenizer, model, [(adapter.path, 1.0)])
    without, _ = both_logits(adapted, tokenizer, model)
    assert np.abs(theirs - ours).max() < (5e-3 if halves else 2e-4)
    with adapted.disable_adapter():
        before, _ = both_logits(adapted, tokenizer, model)
    assert np.abs(without - before).max() > 0.1  # the adapter changes the model
    assert adapter.notes == []


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Llama in `model` and an adapter of it in `adapter`."""
    folder = tmp_path_factory.mktemp("lora")
    adapt("llama", {"target_modules": ATTENTION}, folder)
    (folder / "adapter" / "README.md").write_text(
        "---\nbase_model: owner/Tiny-1B\nlicense: mit\n---\n"
    )
    return folder


def test_its_metadata_and_types(llama: Path, tmp_path: Path) -> None:
    result = convert(llama / "adapter", "Q8_0", tmp_path / "a.gguf", base=llama / "model")
    metadata = read_gguf(result.path).metadata
    assert metadata["general.type"] == "adapter"
    assert metadata["adapter.type"] == "lora"
    assert metadata["adapter.lora.alpha"] == 6
    assert metadata["general.architecture"] == "llama"
    assert metadata["general.base_model.0.repo_url"].endswith("owner/Tiny-1B")
    assert metadata["general.license"] == "mit"
    types = {t.name: t.tensor_type.name for t in gguf.GGUFReader(result.path).tensors}
    # Rows of B are as long as the rank, 4: no block of 32.
    assert types["blk.0.attn_q.weight.lora_a"] == "Q8_0"
    assert types["blk.0.attn_q.weight.lora_b"] == "F16"


def test_the_model_is_found_where_the_adapter_says(
    llama: Path, tmp_path: Path, reellama: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = llama / "adapter" / "adapter_config.json"
    kept = path.read_text()
    try:
        change(llama / "adapter", base_model_name_or_path=str(llama / "model"))
        done = reellama("gguf", "convert", llama / "adapter")
        assert (done.status, done.out) == (0, "adapter-F32.gguf\n")
        change(llama / "adapter", base_model_name_or_path="owner/model")
        refused = reellama("gguf", "convert", llama / "adapter", "F16")
        assert refused.status == 1
        assert "names the model 'owner/model', which is no folder here: give --base" in refused.err
    finally:
        path.write_text(kept)
    other = reellama("gguf", "convert", llama / "model", "--base", llama / "model")
    assert "is no LoRA adapter of PEFT" in other.err


def change(folder: Path, **settings: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("settings", "tensors", "message"),
    [
        ({"peft_type": "IA3"}, {}, "an adapter of the kind IA3 is not known"),
        ({"use_dora": True}, {}, r"adapters have no use_dora; merge it into its model"),
        ({"init_lora_weights": "pissa"}, {}, "with init_lora_weights pissa it fits no model but"),
        ({"lora_alpha": 0}, {}, "with lora_alpha 0 it changes nothing"),
        ({"lora_alpha": "x"}, {}, "adapter_config.json is damaged or says what is not known"),
        ({}, {f"{Q}.lora_magnitude_vector": (64,)}, r"no place for .*, which is of no LoRA; merge"),
        (
            {},
            {"base_model.model.lm_head.weight": (800, 64)},
            "no place for .*lm_head.weight,",
        ),
        ({}, {f"{Q}.lora_A.weight": (4, 64)}, "of model.layers.0.self_attn.q_proj it has one half"),
        ({}, {f"{Q}.lora_A.weight": (4, 64), f"{Q}.lora_B.weight": (64, 5)}, "do not fit each"),
        ({}, {f"{Q}.lora_A.weight": (4, 64), f"{Q}.lora_B.weight": (48, 4)}, "has 48 rows, but"),
        (
            {},
            {"vision.x.lora_A.weight": (4, 64), "vision.x.lora_B.weight": (64, 4)},
            "vision.x has no place in llama.cpp's architecture llama",
        ),
        ({}, {}, "holds no tensors"),
    ],
)
def test_what_llama_cpp_has_no_place_for_is_refused_in_one_line(
    settings: dict[str, Any],
    tensors: dict[str, tuple[int, ...]],
    message: str,
    llama: Path,
    tmp_path: Path,
) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = json.loads((llama / "adapter" / "adapter_config.json").read_text()) | settings
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    if settings:
        weights = load_file(llama / "adapter" / "adapter_model.safetensors")
        arrays = {name: value.numpy() for name, value in weights.items()}
    else:
        arrays = {name: np.ones(shape, np.float32) for name, shape in tensors.items()}
    save_file(arrays, adapter / "adapter_model.safetensors")
    with pytest.raises(ReellamaError, match=message) as caught:
        convert(adapter, "F16", tmp_path / "out.gguf", base=llama / "model")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.gguf").exists()


def test_embeddings_that_are_the_output_too_are_refused(tmp_path: Path) -> None:
    adapt("llama 3.1", {"target_modules": ["embed_tokens"]}, tmp_path)
    with pytest.raises(ReellamaError, match="token embeddings, which are the output too"):
        convert(tmp_path / "adapter", output=tmp_path / "x.gguf", base=tmp_path / "model")
