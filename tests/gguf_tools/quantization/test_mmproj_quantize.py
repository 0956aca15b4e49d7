"""An mmproj in other types is what converting the model into that type gives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from reellama.gguf_tools.conversion.convert import convert
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.quantization.quantize import quantize
from tests.conftest import Result
from tests.helpers.vision_checkpoints import MAKERS

FAMILIES = ["llava", "gemma3", "qwen2.5-vl"]
NUMBERS = {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7}  # of general.file_type


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each family, with its mmproj in F32 beside it."""
    made = {}
    for name in FAMILIES:
        folder = made[name] = MAKERS[name](tmp_path_factory.mktemp(name) / "tiny")
        mmproj_of(folder, folder, "F32")
    return made


def mmproj_of(folder: Path, out: Path, type_: str) -> Path:
    """Convert a folder; returns the path of the mmproj."""
    result = convert(folder, "F32", out / "model.gguf", mmproj_type=type_, force=True)
    assert result.mmproj is not None
    return result.mmproj.path


def source_of(folder: Path) -> Path:
    return folder / "mmproj-tiny-F32.gguf"


def data(path: Path) -> dict[str, tuple[str, bytes]]:
    """Types and bytes of a file's tensors."""
    tensors = gguf.GGUFReader(path).tensors
    return {each.name: (each.tensor_type.name, each.data.tobytes()) for each in tensors}


@pytest.mark.parametrize("type_", ["F32", "F16", "BF16", "Q8_0"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_type_is_what_the_converter_writes(
    name: str, type_: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    source = source_of(folders[name])
    [result] = quantize(source, type_, tmp_path / "q.gguf")
    assert data(result.path) == data(mmproj_of(folders[name], tmp_path, type_))
    file = read_gguf(result.path)
    kept = read_gguf(source).metadata
    assert file.metadata == {**kept, "general.file_type": NUMBERS[type_]}
    assert (result.n_bytes, result.notes) == (file.size, ())
    [planned] = quantize(source, type_, tmp_path / "planned.gguf", dry_run=True)
    assert (planned.n_bytes, planned.bits_per_weight) == (result.n_bytes, result.bits_per_weight)
    assert not planned.path.exists()


def test_what_was_lost_stays_lost(folders: dict[str, Path], tmp_path: Path) -> None:
    source = source_of(folders["llava"])
    [small] = quantize(source, "Q8_0", tmp_path / "small.gguf")
    [back] = quantize(small.path, "F32", tmp_path / "back.gguf")
    assert "the source is quantized already (Q8_0)" in back.notes[0]
    for tensor in gguf.GGUFReader(small.path).tensors:
        [again] = [each for each in gguf.GGUFReader(back.path).tensors if each.name == tensor.name]
        assert np.array_equal(gguf.dequantize(tensor.data, tensor.tensor_type), again.data)


def other_mmproj(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    """An mmproj of a family that is not converted here, with these tensors."""
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_string("clip.projector_type", "internvl")
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_only_matrices_that_are_multiplied_by_change(tmp_path: Path) -> None:
    shapes = {
        "v.blk.0.attn_qkv.weight": (96, 32),
        "v.blk.0.ffn_down.weight": (32, 48),  # no multiple of a block
        "v.position_embd.weight": (16, 32),
        "v.blk.0.ln1.weight": (32,),
        "mm.model.mlp.1.weight": (64, 32),
        "mm.0.weight": (32, 32, 2, 2),  # a convolution
        "resampler.query": (64, 32),
    }
    random = np.random.default_rng(0)
    tensors = {name: random.normal(size=s).astype(np.float32) for name, s in shapes.items()}
    source = other_mmproj(tmp_path / "source.gguf", tensors)
    [result] = quantize(source, "Q8_0", tmp_path / "q.gguf")
    types = {name: kind for name, (kind, _) in data(result.path).items() if kind != "F32"}
    assert types == {
        "v.blk.0.attn_qkv.weight": "Q8_0",
        "v.blk.0.ffn_down.weight": "F16",
        "mm.model.mlp.1.weight": "Q8_0",
    }
    assert result.notes == ("1 of 7 tensors become F16, for their rows are no multiple of 32",)


@pytest.mark.parametrize(
    ("values", "type_", "message"),
    [
        (np.ones((32, 32)), "Q8_0", "attn_q.weight is of type F64, which ends llama.cpp"),
        (np.full((32, 32), np.nan, np.float32), "Q8_0", "numbers that are infinite or not numbers"),
        (np.full((32, 32), 1e6, np.float32), "F16", "beyond 65,504, which F16 cannot hold"),
        (np.ones((32, 32), np.float32), "Q4_K_M", "becomes F32, F16, BF16, Q8_0, not Q4_K_M"),
        (np.ones((32, 32), np.float32), "COPY", "becomes F32, F16, BF16, Q8_0, not COPY"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    values: np.ndarray, type_: str, message: str, tmp_path: Path
) -> None:
    source = other_mmproj(tmp_path / "source.gguf", {"v.blk.0.attn_q.weight": values})
    with pytest.raises(ReellamaError, match=message) as caught:
        quantize(source, type_, tmp_path / "q.gguf")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source.gguf"]


@pytest.mark.parametrize(
    "setting",
    [{"pure": True}, {"imatrix": "x"}, {"loras": [("x", 1.0)]}, {"tensor_types": [("x", "F16")]}],
)
def test_settings_of_language_models_are_refused(
    setting: dict[str, Any], folders: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ReellamaError, match="is an mmproj: an imatrix, LoRA adapters and types of"):
        quantize(source_of(folders["llava"]), "Q8_0", tmp_path / "q.gguf", **setting)


def test_the_command_writes_all_types_here(
    folders: dict[str, Path],
    tmp_path: Path,
    reellama: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = reellama("gguf", "quantize", source_of(folders["gemma3"]), "f16", "q8_0")
    assert result.status == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mmproj-tiny-F16.gguf",
        "mmproj-tiny-Q8_0.gguf",
    ]
    again = reellama("gguf", "quantize", source_of(folders["gemma3"]), "q8_0")
    assert (again.status, "exists; --force replaces it" in again.err) == (1, True)
