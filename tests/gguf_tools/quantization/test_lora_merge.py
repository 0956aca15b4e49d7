"""Merging LoRA adapters: the merged file says what base and adapter together say."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from reellama.gguf_tools.errors import GGUFError, ReellamaError
from reellama.gguf_tools.format.header_writer import (
    TensorInfo,
    aligned_size,
    header_bytes,
    metadata_entries,
    raw_entries,
)
from reellama.gguf_tools.format.model_summary import quantization
from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.quantization import lora_merge
from reellama.gguf_tools.quantization.lora_merge import merge_lora, merged_size
from reellama.gguf_tools.quantization.quantize import quantize
from tests.helpers import tiny_model
from tests.helpers.lora_adapters import ALPHA, NAMES, RANK, Pair, logits, pairs, write_adapter

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("adapter") / "adapter.gguf", pairs(seed=1))


@pytest.mark.parametrize("scale", [1.0, -0.5])
@pytest.mark.parametrize("type_name", ["F32", "Q8_0"])
def test_merged_it_says_what_base_and_adapter_say(
    tiny_llama: Path, adapter: Path, tmp_path: Path, type_name: str, scale: float
) -> None:
    (base,) = quantize(tiny_llama, type_name, tmp_path / "base.gguf", n_threads=1)
    merged = merge_lora(base.path, [(adapter, scale)], tmp_path / "merged.gguf")
    expected = logits(base.path, (adapter, scale))
    # Engines round activations to the eight bits of a Q8_0 weight; merged weights are F16.
    tolerance = 5e-3 if type_name == "F32" else 0.15
    np.testing.assert_allclose(logits(merged), expected, atol=tolerance)
    assert np.abs(expected - logits(base.path)).max() > 0.5  # it changes something


def test_merged_weights_are_exactly_the_sum(
    tiny_llama: Path, adapter: Path, tmp_path: Path
) -> None:
    merged = merge_lora(tiny_llama, [(adapter, 0.5)], tmp_path / "merged.gguf")
    changes = {name: np.float32(0.5 * ALPHA / RANK) * (b @ a) for name, (a, b) in pairs(1).items()}
    written = gguf.GGUFReader(merged)
    for tensor in written.tensors:
        expected = tiny_model.weights("llama")[tensor.name] + changes.get(tensor.name, 0)
        np.testing.assert_allclose(tensor.data, expected, rtol=1e-6, atol=1e-6)


def test_several_adapters_add_up(tiny_llama: Path, adapter: Path, tmp_path: Path) -> None:
    other = write_adapter(tmp_path / "other.gguf", pairs(seed=2))
    both = [(adapter, 0.5), (other, 0.25)]
    merged = merge_lora(tiny_llama, both, tmp_path / "merged.gguf")
    np.testing.assert_allclose(logits(merged), logits(tiny_llama, *both), atol=5e-3)


def test_a_quantized_base_becomes_f16_with_all_its_metadata(smollm2: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    name = "blk.3.attn_q.weight"
    pair = rng.normal(0, 0.3, (2, 4, 576)).astype(np.float32)
    adapter = write_adapter(tmp_path / "adapter.gguf", {name: (pair[0], pair[1].T.copy())})
    merged = merge_lora(smollm2, [(adapter, 1.0)], tmp_path / "merged.gguf")
    file = read_gguf(merged)
    assert quantization(file) == "F16"
    types = {t.type.name for t in file.tensors.values() if len(t.shape) > 1}
    assert types == {"F16"}
    before, after = raw_entries(smollm2), raw_entries(merged)
    assert {key for key in before | after if before.get(key) != after.get(key)} == {
        "general.file_type"
    }
    assert sum(t.n_bytes for t in file.tensors.values()) <= merged_size(read_gguf(smollm2))
    expected, plain = logits(smollm2, (adapter, 1.0)), logits(smollm2)
    # What the adapter does is many times what the rounding of Q4_1 products does.
    assert rms(logits(merged) - expected) < 0.25 * rms(expected - plain)


def rms(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))


def test_tensors_in_pieces_are_the_same_as_whole(
    tiny_llama: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = merge_lora(tiny_llama, [(adapter, 1.0)], tmp_path / "whole.gguf", type_name="F16")
    monkeypatch.setattr(lora_merge, "CHUNK_ELEMENTS", 5 * tiny_model.N_EMBD)
    pieces = merge_lora(tiny_llama, [(adapter, 1.0)], tmp_path / "pieces.gguf", type_name="f16")
    one, other = gguf.GGUFReader(whole), gguf.GGUFReader(pieces)
    for tensor, same in zip(one.tensors, other.tensors, strict=True):
        np.testing.assert_allclose(
            np.float32(tensor.data), np.float32(same.data), rtol=2e-3, atol=1e-6
        )


def test_token_embeddings_and_experts_are_merged(tmp_path: Path) -> None:
    """llama.cpp's engine takes neither from every adapter, so the sums are computed here."""
    rng = np.random.default_rng(0)

    def random(*shape: int) -> np.ndarray:
        return rng.normal(0, 1, shape).astype(np.float32)

    experts, embeddings = random(3, 6, 32), random(10, 32)
    weights = {"blk.0.ffn_up_exps.weight": experts, "token_embd.weight": embeddings}
    base = _write(tmp_path / "base.gguf", weights)
    a, b = random(3, RANK, 32), random(3, 6, RANK)
    lookup_a, lookup_b = random(10, RANK), random(32, RANK)
    adapter = write_adapter(
        tmp_path / "adapter.gguf",
        {
            "blk.0.ffn_up_exps.weight": (a, b),
            "token_embd.weight": (lookup_a, lookup_b),
        },
    )
    merged = gguf.GGUFReader(merge_lora(base, [(adapter, 1.0)], tmp_path / "merged.gguf"))
    written = {tensor.name: tensor.data for tensor in merged.tensors}
    factor = ALPHA / RANK
    expected = experts + factor * np.matmul(b, a)
    np.testing.assert_allclose(written["blk.0.ffn_up_exps.weight"], expected, atol=1e-4)
    expected = embeddings + factor * lookup_a @ lookup_b.T
    np.testing.assert_allclose(written["token_embd.weight"], expected, atol=1e-4)


def _write(path: Path, weights: dict[str, np.ndarray]) -> Path:
    infos = [
        TensorInfo(name, weight.shape[::-1], gguf.GGMLQuantizationType.F32)
        for name, weight in weights.items()
    ]
    content = b"".join(w.tobytes().ljust(aligned_size(w.nbytes), b"\0") for w in weights.values())
    path.write_bytes(
        header_bytes(metadata_entries({"general.architecture": "llama"}), infos) + content
    )
    return path


def test_adapters_of_other_models_are_refused(
    tiny_llama: Path, smollm2: Path, adapter: Path, tmp_path: Path
) -> None:
    def refused(match: str, base: Path, path: Path, type_name: str | None = None) -> None:
        with pytest.raises(ReellamaError, match=match) as caught:
            merge_lora(base, [(path, 1.0)], tmp_path / "merged.gguf", type_name=type_name)
        assert "\n" not in str(caught.value)

    refused("does not fit .*: blk.0.attn_q.weight has other shapes", smollm2, adapter)
    mamba = write_adapter(tmp_path / "mamba.gguf", pairs(seed=1), arch="mamba")
    refused("architecture mamba, and .* is llama", tiny_llama, mamba)
    refused("is not a GGUF LoRA adapter", tiny_llama, tiny_llama)
    unknown = write_adapter(tmp_path / "unknown.gguf", {"blk.9.x.weight": pairs(1)[NAMES[0]]})
    refused("changes blk.9.x.weight, which .* does not have", tiny_llama, unknown)
    refused("in F32, F16 or BF16, not in Q8_0", tiny_llama, adapter, type_name="Q8_0")
    huge: Pair = (np.full((4, 64), 1e4, np.float32), np.full((64, 4), 1e4, np.float32))
    large = write_adapter(tmp_path / "large.gguf", {NAMES[0]: huge})
    refused("has values beyond F16: choose F32", tiny_llama, large, type_name="F16")
    assert not (tmp_path / "merged.gguf").exists()
    with pytest.raises(GGUFError, match="cannot read"):
        merge_lora(tiny_llama, [(tmp_path / "absent.gguf", 1.0)], tmp_path / "merged.gguf")


def test_the_command_merges_before_it_quantizes(
    tiny_llama: Path,
    adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reellama: Callable,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = reellama("gguf", "quantize", tiny_llama, "F32", "--lora", f"{adapter}=0.5")
    assert (result.status, result.err) == (0, "")
    assert [path.name for path in tmp_path.glob("*")] == ["llama-adapter-F32.gguf"]
    merged = logits(tmp_path / "llama-adapter-F32.gguf")
    np.testing.assert_allclose(merged, logits(tiny_llama, (adapter, 0.5)), atol=5e-3)
