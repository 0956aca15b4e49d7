"""Experts of a mixture, and types that a tensor may not have."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from reellama.gguf_tools.conversion.convert import convert
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import read_gguf
from tests.gguf_tools.conversion.test_convert import data, make
from tests.helpers import tiny_hf

MIXTURES = ["qwen3 moe", "mixtral"]
SHORT = {"rope_type": "longrope", "long_factor": [1.0], "short_factor": [1.0]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make a family's folder, once."""

    @functools.cache
    def make_once(name: str) -> Path:
        folder = tmp_path_factory.mktemp("made") / "model"
        make(name, folder)
        return folder

    return make_once


@pytest.fixture(scope="module", params=MIXTURES)
def mixture(request: pytest.FixtureRequest, made: Callable[[str], Path]) -> Path:
    """The folder of a mixture of five experts, and its GGUF beside it."""
    folder = made(request.param)
    convert(folder, "F32", folder.parent / "model.gguf")
    return folder


def test_experts_that_are_one_tensor_make_the_same_file(mixture: Path, tmp_path: Path) -> None:
    """Folders that were saved with transformers' own names of today have them so."""
    folder = tiny_hf.edited_copy(mixture, tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    experts: dict[str, dict[int, dict[str, torch.Tensor]]] = {}
    together = {}
    for name, weight in weights.items():
        block, found, rest = name.partition(".experts.")
        if not found:
            together[name.replace("block_sparse_moe", "mlp")] = weight
            continue
        number, kind, _ = rest.split(".")
        kind = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}.get(kind, kind)
        experts.setdefault(block.replace("block_sparse_moe", "mlp"), {}).setdefault(
            int(number), {}
        )[kind] = weight
    for block, parts in experts.items():
        ordered = [parts[number] for number in sorted(parts)]
        both = [torch.cat([part["gate_proj"], part["up_proj"]]) for part in ordered]
        together[f"{block}.experts.gate_up_proj"] = torch.stack(both)
        together[f"{block}.experts.down_proj"] = torch.stack([p["down_proj"] for p in ordered])
    save_file(together, folder / "model.safetensors")
    made = convert(folder, "F32", tmp_path / "model.gguf").path
    assert data(made) == data(mixture.parent / "model.gguf")


def test_its_metadata_counts_experts_and_its_routers_stay_in_f32(
    mixture: Path, tmp_path: Path
) -> None:
    file = read_gguf(convert(mixture, "F16", tmp_path / "model.gguf").path)
    assert file.hparam("expert_count") == 5
    assert file.hparam("expert_used_count") == 2
    assert file.metadata["general.size_label"].startswith("5x")
    types = {name.split(".", 2)[-1]: tensor.type.name for name, tensor in file.tensors.items()}
    assert types["ffn_gate_inp.weight"] == "F32"
    assert types["ffn_down_exps.weight"] == "F16"


def test_a_missing_expert_is_refused(mixture: Path, tmp_path: Path) -> None:
    folder = tiny_hf.edited_copy(mixture, tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if ".experts.3." in name)
    save_file({n: w for n, w in weights.items() if n != lost}, folder / "model.safetensors")
    with pytest.raises(ReellamaError, match="has 4 experts, and config.json says 5; download"):
        convert(folder, output=tmp_path / "model.gguf")


def test_q8_0_is_what_llama_cpp_makes_of_the_weights(
    made: Callable[[str], Path], tmp_path: Path
) -> None:
    """And rows that are no multiple of its blocks of 32 are F16."""
    folder = made("qwen3 moe")  # rows of 64, 128 and, in the experts, 48
    f32 = convert(folder, "F32", tmp_path / "f32.gguf").path
    exact = {tensor.name: tensor for tensor in gguf.GGUFReader(f32).tensors}
    result = convert(folder, "q8_0", tmp_path / "q8_0.gguf")
    assert read_gguf(result.path).metadata["general.file_type"] == 7
    found = set()
    for tensor in gguf.GGUFReader(result.path).tensors:
        numbers = np.array(exact[tensor.name].data)
        expected = gguf.quantize(numbers, tensor.tensor_type)
        assert np.array_equal(tensor.data, expected), tensor.name
        found.add((tensor.name.split(".")[-2], tensor.tensor_type.name))
    assert {("token_embd", "Q8_0"), ("ffn_up_exps", "Q8_0"), ("attn_q", "Q8_0")} <= found
    assert {("ffn_down_exps", "F16"), ("ffn_gate_inp", "F32"), ("attn_norm", "F32")} <= found


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("qwen3 moe", {"norm_topk_prob": False}, "has no norm_topk_prob false"),
        ("qwen3 moe", {"mlp_only_layers": [1]}, "has no layers without experts"),
        ("qwen3 moe", {"num_experts_per_tok": 6}, "has no 6 of 5 experts"),
        ("qwen3 moe", {"attention_bias": True}, "has no attention_bias"),
        ("mixtral", {"num_local_experts": 8}, "has 5 experts, and config.json says 8"),
        ("olmo2", {"tie_word_embeddings": True}, "has no tie_word_embeddings"),
        ("olmo2", {"head_dim": 32}, "head_dim that differs"),
        ("phi3", {"rope_parameters": SHORT}, "short_factor are not 8 numbers each"),
        ("phi3", {"rope_parameters": {"rope_type": "llama3"}}, "no rope scaling llama3"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "has no scale_attn_by_inverse"),
        ("gpt2", {"activation_function": "gelu"}, "has no activation gelu"),
        ("gpt2", {"add_cross_attention": True}, "has no add_cross_attention"),
    ],
)
def test_variants_that_llama_cpp_would_compute_wrongly_are_refused(
    name: str,
    changes: dict[str, Any],
    message: str,
    made: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    folder = tiny_hf.edited_copy(made(name), tmp_path / "copy", **changes)
    with pytest.raises(ReellamaError, match=message) as caught:
        convert(folder, "F16", tmp_path / "model.gguf")
    assert "\n" not in str(caught.value)


def test_the_first_files_of_gpt2_have_shorter_names_and_masks(
    made: Callable[[str], Path], tmp_path: Path
) -> None:
    new = made("gpt2")
    old = tiny_hf.edited_copy(new, tmp_path / "old")
    weights = load_file(old / "model.safetensors")
    renamed = {name.removeprefix("transformer."): weight for name, weight in weights.items()}
    renamed["h.0.attn.bias"] = torch.ones(1, 1, 512, 512)
    save_file(renamed, old / "model.safetensors")
    paths = [convert(f, "F32", tmp_path / f"{f.name}.gguf").path for f in (new, old)]
    assert data(paths[0]) == data(paths[1])
