"""What a GGUF is, said in words: an adapter, a control vector, an importance matrix, experts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.inspection.file_kind import active_parameters, file_kind
from reellama.gguf_tools.quantization.imatrix import Imatrix
from tests.conftest import Result
from tests.helpers import lora_adapters, tiny_bert

Run = Callable[..., Result]


def write(path: Path, architecture: str, keys: dict[str, int], shapes: dict[str, tuple]) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in keys.items():
        writer.add_uint32(key, value)
    for name, shape in shapes.items():
        writer.add_tensor(name, np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_an_adapter(reellama: Run, tmp_path: Path) -> None:
    path = lora_adapters.write_adapter(tmp_path / "style.gguf", lora_adapters.pairs(0))
    result = reellama("gguf", "inspect", path)
    assert result.status == 0
    said = "LoRA adapter for llama, rank 4, alpha 8 (what it adds counts 2 times): "
    assert f"{said}attn_output, attn_q, ffn_down of layers 0 and 1" in result.out


def test_a_control_vector(tmp_path: Path) -> None:
    directions = {f"direction.{layer}": (8,) for layer in range(1, 6)}
    path = write(tmp_path / "calm.gguf", "controlvector", {}, directions)
    assert file_kind(read_gguf(path)) == "control vector: directions for layers 1 to 5"


def test_an_importance_matrix(tmp_path: Path) -> None:
    sums = {"blk.0.attn_q.weight": np.ones((1, 8), np.float32)}
    counts = {"blk.0.attn_q.weight": np.ones(1, np.float32)}
    Imatrix(sums, counts, ("/home/me/prose.txt",), 3, 512).write(tmp_path / "i.gguf")
    said = file_kind(read_gguf(tmp_path / "i.gguf"))
    assert said == "importance matrix from prose.txt: 3 chunks of 512 tokens, 1 tensors"


def test_a_mixture_of_experts_and_what_works_for_a_token(reellama: Run, tmp_path: Path) -> None:
    keys = {"llama.expert_count": 8, "llama.expert_used_count": 2}
    shapes = {
        "token_embd.weight": (10, 8),
        "blk.0.ffn_gate_inp.weight": (8, 8),
        "blk.0.ffn_up_exps.weight": (8, 16, 8),
        "blk.0.ffn_down_shexp.weight": (8, 16),
    }
    path = write(tmp_path / "experts.gguf", "llama", keys, shapes)
    assert active_parameters(read_gguf(path)) == 80 + 64 + 1024 * 2 // 8 + 128
    shown = reellama("gguf", "inspect", path)
    assert "mixture of 8 experts, of which 2 work for a token" in shown.out
    assert "1,296 in 4 tensors (528 of them for a token)" in shown.out


def test_an_encoder_and_a_plain_model(tiny_llama: Path, tmp_path: Path) -> None:
    said = file_kind(read_gguf(tiny_bert.write(tmp_path / "bert.gguf")))
    assert said is not None and said.startswith("encoder")
    assert file_kind(read_gguf(tiny_llama)) is None
    assert active_parameters(read_gguf(tiny_llama)) is None


@pytest.mark.parametrize("value", [0, 9])
def test_experts_that_make_no_sense_are_not_counted(tmp_path: Path, value: int) -> None:
    keys = {"llama.expert_count": 8, "llama.expert_used_count": value}
    path = write(tmp_path / "odd.gguf", "llama", keys, {"token_embd.weight": (4, 4)})
    assert file_kind(read_gguf(path)) is None and active_parameters(read_gguf(path)) is None
