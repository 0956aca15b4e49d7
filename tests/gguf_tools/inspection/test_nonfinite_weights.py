"""NaN and infinity in the weights of a file: found wherever they stand, and nothing else is."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st

from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.inspection import nonfinite_weights
from reellama.gguf_tools.inspection.nonfinite_weights import (
    SCALES_AT,
    check_weights,
    nonfinite_tensors,
)
from tests.helpers import small_mmproj


def write(path: Path, blocks: dict[str, tuple[np.ndarray, GGMLQuantizationType]]) -> Path:
    """A GGUF of these tensors, as bytes of blocks `[rows, bytes of a row]`."""
    writer = gguf.GGUFWriter(path, "clip")
    for name, (data, type_) in blocks.items():
        writer.add_tensor(name, data, raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def found(path: Path) -> list[str]:
    return list(nonfinite_tensors(read_gguf(path)))


@pytest.mark.parametrize("type_", ["F32", "F16", "BF16", "Q8_0"])
def test_a_good_mmproj_has_none(tmp_path: Path, type_: str) -> None:
    path = small_mmproj.write(tmp_path / "m.gguf", type_=GGMLQuantizationType[type_])
    assert found(path) == []
    check_weights(read_gguf(path))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -np.nan])
@pytest.mark.parametrize("type_", ["F32", "F16", "BF16", "F64"])
def test_one_number_that_is_none_is_found(tmp_path: Path, type_: str, bad: float) -> None:
    numbers = np.random.default_rng(0).normal(0, 1, (3, 64))
    numbers[1, 17] = bad
    kind, good = GGMLQuantizationType[type_], np.ones((3, 64), np.float32)
    with np.errstate(invalid="ignore"):
        data = (
            numbers
            if kind == GGMLQuantizationType.F64
            else gguf.quantize(numbers.astype(np.float32), kind)
        ).reshape(3, -1)
    path = write(tmp_path / "m.gguf", {"a": (good, GGMLQuantizationType.F32), "b": (data, kind)})
    assert found(path) == ["b"]
    with pytest.raises(GGUFError, match=r"m.gguf is damaged: 'b' holds NaN or infinity; download"):
        check_weights(read_gguf(path))


@pytest.mark.parametrize("type_", SCALES_AT)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_a_block_is_bad_where_it_becomes_numbers_that_are_none(
    tmp_path_factory: pytest.TempPathFactory, type_: GGMLQuantizationType, data: st.DataObject
) -> None:
    """Blocks of any bytes: what is found is what `gguf.dequantize` makes of them."""
    _, block_bytes = gguf.GGML_QUANT_SIZES[type_]
    seed = data.draw(st.integers(0, 2**32 - 1))
    blocks = np.random.default_rng(seed).integers(0, 256, (4, block_bytes), np.uint8)
    for start in SCALES_AT[type_]:  # some scales of noise are infinite; these are not
        blocks[:, start + 1] &= 0x3F
    at = data.draw(st.sampled_from([None, *SCALES_AT[type_]]))
    if at is not None:
        blocks[2, at : at + 2] = np.frombuffer(np.float16(np.nan).tobytes(), np.uint8)
    path = write(tmp_path_factory.mktemp("blocks") / "m.gguf", {"a": (blocks, type_)})
    with np.errstate(all="ignore"):
        finite = np.isfinite(gguf.dequantize(blocks, type_)).all()
    assert (found(path) == []) == finite == (at is None)


def test_other_types_are_read_as_numbers(tmp_path: Path) -> None:
    whole = np.arange(64, dtype=np.int32).reshape(2, 32)
    scale = np.zeros((2, gguf.GGML_QUANT_SIZES[GGMLQuantizationType.IQ2_XXS][1]), np.uint8)
    bad = scale.copy()
    bad[1, :2] = (0, 0x7C)  # infinity, as F16
    tensors: dict[str, tuple[np.ndarray, GGMLQuantizationType]] = {
        "a": (whole, GGMLQuantizationType.I32),
        "b": (scale, GGMLQuantizationType.IQ2_XXS),
        "c": (bad, GGMLQuantizationType.IQ2_XXS),
    }
    with np.errstate(all="ignore"):
        assert found(write(tmp_path / "m.gguf", tensors)) == ["c"]


def test_a_tensor_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nonfinite_weights, "CHUNK", 64)
    numbers = np.ones((3, 1000), np.float32)
    path = write(tmp_path / "m.gguf", {"a": (numbers, GGMLQuantizationType.F32)})
    assert found(path) == []
    numbers[2, 999] = np.nan
    assert found(write(path, {"a": (numbers, GGMLQuantizationType.F32)})) == ["a"]


def test_a_file_that_became_shorter_is_one_line(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.gguf", {"a": (np.ones((3, 1000), np.float32), GGMLQuantizationType.F32)}
    )
    file = read_gguf(path)
    path.write_bytes(path.read_bytes()[:-1001])
    with pytest.raises(GGUFError, match="m.gguf"):
        check_weights(file)
