"""What can be chosen of a quantization beside the type: keys, layers, types from a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.quantization.quant_options import (
    parse_layers,
    parse_metadata,
    read_tensor_types,
)
from reellama.gguf_tools.quantization.quantize import quantize
from reellama.gguf_tools.runtime.backend import load_model
from tests.conftest import Result


def types(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.type.name for tensor in read_gguf(path).tensors.values()}


def test_keys_are_set_as_llama_quantize_sets_them(
    reellama: Callable[..., Result], tiny_llama: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.gguf"
    given = ("general.name=str:A: B", "my.int=int:7", "my.float=float:0.5", "my.flag=bool:true")
    options = [word for text in given for word in ("--override-kv", text)]
    result = reellama("gguf", "quantize", tiny_llama, "Q8_0", "-o", out, *options)
    assert result.status == 0
    metadata = read_gguf(out).metadata
    found = [metadata[text.partition("=")[0]] for text in given]
    assert found == ["A: B", 7, 0.5, True]
    (planned,) = quantize(
        tiny_llama, "Q8_0", dry_run=True, metadata=[parse_metadata(text) for text in given]
    )
    assert planned.n_bytes == out.stat().st_size


def test_types_come_from_a_file_too(
    reellama: Callable[..., Result], tiny_llama: Path, tmp_path: Path
) -> None:
    file, out = tmp_path / "types.txt", tmp_path / "out.gguf"
    file.write_text("# values are sensitive\n\nattn_v=f16\nffn_down=q4_0\n")
    words = ("--tensor-type-file", file, "--tensor-type", r"blk\.0\.attn_v=f32")
    assert reellama("gguf", "quantize", tiny_llama, "Q8_0", "-o", out, *words).status == 0
    found = types(out)
    assert [found[f"blk.{i}.attn_v.weight"] for i in (0, 1)] == ["F32", "F16"]
    assert found["blk.1.ffn_down.weight"] == "Q4_0" and found["blk.1.ffn_up.weight"] == "Q8_0"


def test_the_output_matrix_can_be_left_as_it_is(tiny_llama: Path, tmp_path: Path) -> None:
    (made,) = quantize(tiny_llama, "Q8_0", tmp_path / "out.gguf", leave_output=True)
    assert types(made.path)["output.weight"] == "F32"
    assert types(made.path)["token_embd.weight"] == "Q8_0"


def test_layers_can_be_left_out(tiny_llama: Path, tmp_path: Path) -> None:
    (made,) = quantize(tiny_llama, "F32", tmp_path / "out.gguf", prune_layers="0")
    assert made.n_bytes == made.path.stat().st_size
    with load_model(made.path) as model:
        assert model.n_layer == 1


BAD_KEYS = ("x", "x=7", "x=int:a", "x=bool:1", "x=float:nan", "x=str:" + "a" * 200, "=int:7")
BAD_LAYERS = ("", "a", "1-", "2", "0-1", "9" * 5000, "0-99999999999")


@pytest.mark.parametrize("text", BAD_KEYS, ids=range(len(BAD_KEYS)))
def test_a_key_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ReellamaError) as caught:
        parse_metadata(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


@pytest.mark.parametrize("text", BAD_LAYERS, ids=range(len(BAD_LAYERS)))
def test_layers_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ReellamaError) as caught:
        parse_layers(text, 2)
    assert len(str(caught.value)) < 150


def test_a_line_that_makes_no_sense_is_named(tmp_path: Path) -> None:
    file = tmp_path / "types.txt"
    file.write_text("attn_v=f16\nattn_q\n")
    with pytest.raises(ReellamaError, match=r"types\.txt, line 2: 'attn_q' is not PATTERN=TYPE"):
        read_tensor_types(file)
    file.write_text("# nothing\n")
    with pytest.raises(ReellamaError, match="names no tensor"):
        read_tensor_types(file)
