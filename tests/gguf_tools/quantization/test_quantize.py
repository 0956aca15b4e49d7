"""Quantizing: every type of llama.cpp's, whole files or none, and what is said beforehand."""

import ctypes
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import llama_cpp.llama_cpp as llama
import numpy as np
import pytest

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.header_metadata import HeaderMetadata
from reellama.gguf_tools.format.header_writer import TensorInfo, header_bytes, raw_entries
from reellama.gguf_tools.format.model_summary import quantization
from reellama.gguf_tools.format.reader import GGUFFile, read_gguf
from reellama.gguf_tools.quantization import quant_types
from reellama.gguf_tools.quantization.output_files import default_name
from reellama.gguf_tools.quantization.quant_types import QUANT_TYPES, quant_type
from reellama.gguf_tools.quantization.quantize import quantize
from reellama.gguf_tools.runtime.backend import load_model
from reellama.pipeline.llm.engine import Engine, Text
from tests.helpers import tiny_model

NAMES = [type_.name for type_ in QUANT_TYPES]
FTYPES = {type_.name: type_.ftype for type_ in QUANT_TYPES}
# Quantizing into these begins with tables that take llama.cpp seconds to make.
SLOW = ("IQ1", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ3")
TEXT = "Twelve drummers drumming, eleven pipers piping. " * 20


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose rows are long enough (256) for every type, with an importance matrix beside."""
    path = tmp_path_factory.mktemp("wide") / "wide-f32.gguf"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_model, "N_EMBD", 256)
        patch.setattr(tiny_model, "N_FF", 256)
        tiny_model.write(path)
    return path


@pytest.fixture(scope="module")
def imatrix(wide: Path) -> Path:
    from reellama.gguf_tools.quantization.imatrix import collect_from_text

    text = wide.with_name("text.txt")
    text.write_text(TEXT, encoding="utf-8")
    matrix = collect_from_text(wide, text, n_ctx=128, n_chunks=4, n_threads=1)
    matrix.write(wide.with_name("imatrix.gguf"))
    return wide.with_name("imatrix.gguf")


def data(path: Path) -> dict[str, bytes]:
    content = path.read_bytes()
    tensors = read_gguf(path).tensors.values()
    return {t.name: content[t.offset : t.offset + t.n_bytes] for t in tensors}


def test_types_are_written_as_planned_and_load(wide: Path, imatrix: Path, tmp_path: Path) -> None:
    planned = quantize(wide, NAMES, tmp_path, imatrix=imatrix, dry_run=True)
    assert [plan.type for plan in planned] == NAMES
    assert not list(tmp_path.iterdir())
    planned = [plan for plan in planned if not plan.type.startswith(SLOW)]
    types = [plan.type for plan in planned]
    made = quantize(wide, types, tmp_path, imatrix=imatrix, n_threads=1)
    for plan, result in zip(planned, made, strict=True):
        file = read_gguf(result.path)
        assert result.path == plan.path == tmp_path / f"wide-{result.type}.gguf"
        assert file.size == result.n_bytes == plan.n_bytes
        assert quant_type(result.type) in QUANT_TYPES
        assert file.metadata["general.file_type"] == FTYPES[result.type]
        n_bytes = sum(tensor.n_bytes for tensor in file.tensors.values())
        bits = 8 * n_bytes / sum(tensor.n_elements for tensor in file.tensors.values())
        assert result.bits_per_weight == plan.bits_per_weight == bits
        load_model(result.path).close()
    sizes = {result.type: result.n_bytes for result in made}
    assert sizes["F32"] > sizes["F16"] > sizes["Q8_0"] > sizes["Q4_K_M"] > sizes["Q2_K"]


def test_all_that_llama_cpp_offers_is_in_the_table(wide: Path) -> None:
    constants = {
        name: value for name, value in vars(llama).items() if re.match("LLAMA_FTYPE_[AM]", name)
    }
    table = {type_.ftype: type_.name for type_ in QUANT_TYPES}
    for name, ftype in constants.items():
        if ftype in table:
            assert name.removeprefix("LLAMA_FTYPE_").partition("_")[2] == table[ftype]
        else:  # llama.cpp has a number for it and no more
            parameters = llama.llama_model_quantize_default_params()
            parameters.ftype, parameters.dry_run = ftype, True
            path = os.fsencode(wide)
            assert llama.llama_model_quantize(path, b"", ctypes.byref(parameters)), name


def test_a_quantized_model_still_says_almost_the_same(wide: Path, tmp_path: Path) -> None:
    (made,) = quantize(wide, "q8_0", tmp_path / "other.gguf", n_threads=1)
    assert made.path == tmp_path / "other.gguf"
    assert quantization(read_gguf(made.path)) == "Q8_0"
    logits = []
    for path in (wide, made.path):
        with Engine(path, n_ctx=256, n_threads=1) as engine:
            logits.append(engine.logits_all([Text("Twelve drummers")]).ravel())
    assert np.corrcoef(np.stack(logits))[0, 1] > 0.999


def test_all_metadata_but_the_type_is_kept(smollm2: Path, tmp_path: Path) -> None:
    (made,) = quantize(smollm2, "F16", tmp_path)
    before, after = raw_entries(smollm2), raw_entries(made.path)
    assert {key for key in before | after if before.get(key) != after.get(key)} == {
        "general.file_type",
    }
    assert made.path.name == "SmolLM2-135M-Instruct.F16.gguf"
    assert "stays lost" in made.notes[0]  # nothing more is
    matrices = [t for t in read_gguf(made.path).tensors.values() if len(t.shape) > 1]
    assert {t.type.name for t in matrices} == {"F16"}


def test_quantizing_what_is_quantized_already_is_remarked_on(smollm2: Path) -> None:
    (planned,) = quantize(smollm2, "Q4_K_M", dry_run=True)
    assert "quantized already (Q4_1)" in planned.notes[0]
    assert "no multiple of its block" in planned.notes[1]  # 576 is none of 256


def test_single_tensors_get_the_types_asked_for(wide: Path, tmp_path: Path) -> None:
    (made,) = quantize(
        wide,
        "Q4_K_M",
        tmp_path,
        tensor_types=[(r"blk\.0\.ffn_.*", "q8_0"), ("attn_q", "Q5_K"), ("ffn", "Q6_K")],
        output_type="F16",
        embedding_type="bf16",
        n_threads=1,
    )
    types = {name: tensor.type.name for name, tensor in read_gguf(made.path).tensors.items()}
    assert types["blk.0.ffn_up.weight"] == types["blk.0.ffn_down.weight"] == "Q8_0"
    assert (types["blk.1.ffn_up.weight"], types["blk.1.attn_q.weight"]) == ("Q6_K", "Q5_K")
    assert (types["output.weight"], types["token_embd.weight"]) == ("F16", "BF16")
    assert types["blk.0.attn_k.weight"] == "Q4_K"
    assert types["blk.0.attn_norm.weight"] == "F32"


def test_pure_gives_all_matrices_the_same_type(wide: Path, tmp_path: Path) -> None:
    mixed, pure = (
        quantize(wide, "Q4_K_M", tmp_path / f"{pure}.gguf", pure=pure, n_threads=1)[0].path
        for pure in (False, True)
    )
    assert set(_matrix_types(pure)) == {"Q4_K"}
    assert set(_matrix_types(mixed)) == {"Q4_K", "Q6_K"}


def _matrix_types(path: Path) -> list[str]:
    return [t.type.name for t in read_gguf(path).tensors.values() if len(t.shape) > 1]


def test_copy_changes_nothing(wide: Path, tmp_path: Path) -> None:
    (made,) = quantize(wide, "copy", tmp_path)
    assert data(made.path) == data(wide)
    assert made.n_bytes == made.path.stat().st_size


def test_a_split_model_is_joined(wide: Path, tmp_path: Path) -> None:
    parts = split(wide, tmp_path / "parts")
    (made,) = quantize(parts[0], "COPY", tmp_path)
    assert made.path.name == "wide.gguf" or made.path.name.startswith("wide")
    assert data(made.path) == data(wide)
    assert made.n_bytes == made.path.stat().st_size
    assert "split.count" not in read_gguf(made.path).metadata


def test_a_split_model_keeps_its_files(wide: Path, tmp_path: Path) -> None:
    sources = split(wide, tmp_path / "parts")
    (whole,) = quantize(wide, "Q8_0", tmp_path / "whole.gguf")
    (made,) = quantize(sources[0], "Q8_0", tmp_path / "made", keep_split=True)
    files = sorted((tmp_path / "made").iterdir())
    assert [file.name for file in files] == [f"wide-Q8_0-0000{i}-of-00002.gguf" for i in (1, 2)]
    assert made.path == files[0]
    assert made.n_bytes == sum(file.stat().st_size for file in files)
    for source, file in zip(sources, files, strict=True):
        assert read_gguf(file).tensors.keys() == read_gguf(source).tensors.keys()
    assert data(files[0]) | data(files[1]) == data(whole.path)
    with pytest.raises(ReellamaError, match="wide-Q8_0-00001-of-00002.gguf exists; --force"):
        quantize(sources[0], "Q8_0", tmp_path / "made", keep_split=True)


@pytest.mark.parametrize("loras", [(), [("adapter.gguf", 1.0)]])
def test_what_is_one_file_has_no_split_to_keep(
    wide: Path, tmp_path: Path, loras: list[tuple[str, float]]
) -> None:
    with pytest.raises(ReellamaError, match="one file: leave --keep-split out"):
        quantize(wide, "Q8_0", tmp_path, keep_split=True, loras=loras)


def split(path: Path, folder: Path) -> list[Path]:
    """Write a model as two files, as llama.cpp's gguf-split does."""
    folder.mkdir()
    file, content = read_gguf(path), data(path)
    tensors = list(file.tensors.values())
    parts = []
    for index, of_part in enumerate((tensors[:9], tensors[9:])):
        parts.append(folder / f"wide-{index + 1:05}-of-00002.gguf")
        writer = gguf.GGUFWriter(parts[-1], "llama")
        writer.kv_data[0].clear()
        writer.add_uint16("split.no", index)
        writer.add_uint16("split.count", 2)
        writer.add_int32("split.tensors.count", len(tensors))
        for tensor in of_part:
            values = np.frombuffer(content[tensor.name], np.float32)
            writer.add_tensor(tensor.name, values.reshape(tensor.shape[::-1]))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    _put_metadata(parts[0], raw_entries(path))
    return parts


def _put_metadata(path: Path, more: dict[str, bytes]) -> None:
    file, content = read_gguf(path), data(path)
    infos = [TensorInfo(t.name, t.shape, t.type) for t in file.tensors.values()]
    top = header_bytes(more | raw_entries(path), infos)
    path.write_bytes(top + b"".join(content[info.name] for info in infos))


def test_a_type_that_needs_an_imatrix_says_so(wide: Path, tmp_path: Path) -> None:
    for name in ("IQ2_XS", "IQ1_S", "Q2_K_S", "IQ3_XXS"):
        with pytest.raises(ReellamaError, match=f"{name} needs an importance matrix: make one"):
            quantize(wide, ["Q8_0", name], tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_imatrix_of_another_model_is_refused_or_remarked_on(
    wide: Path, imatrix: Path, smollm2: Path, tmp_path: Path
) -> None:
    with pytest.raises(ReellamaError, match=r"imatrix.gguf|imatrix size"):
        quantize(smollm2, "IQ4_NL", tmp_path, imatrix=imatrix)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ReellamaError, match="is not an importance matrix"):
        quantize(wide, "Q8_0", tmp_path, imatrix=wide)


def test_an_imatrix_changes_the_weights_and_is_noted(
    wide: Path, imatrix: Path, tmp_path: Path
) -> None:
    (plain,) = quantize(wide, "Q4_K_M", tmp_path / "plain.gguf", n_threads=1)
    (better,) = quantize(wide, "Q4_K_M", tmp_path / "better.gguf", imatrix=imatrix, n_threads=1)
    assert data(plain.path)["blk.0.ffn_up.weight"] != data(better.path)["blk.0.ffn_up.weight"]
    metadata = read_gguf(better.path).metadata
    assert metadata["quantize.imatrix.file"] == "imatrix.gguf"
    assert metadata["quantize.imatrix.entries_count"] == 14
    assert metadata["quantize.imatrix.chunks_count"] == 4
    assert metadata["quantize.imatrix.dataset"].endswith("text.txt")


def test_bad_requests_are_one_line_and_write_nothing(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(match: str, *arguments: object, **options: object) -> None:
        with pytest.raises(ReellamaError, match=match) as caught:
            quantize(wide, *arguments, **options)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)

    (tmp_path / "there.gguf").write_text("precious")
    refused(r"no such type: Q9; there are F32, F16, .*, COPY", "Q9")
    refused("no such tensor type: int4; there are F32", "Q8_0", output_type="int4")
    refused("give each type once", ["Q4_K", "Q4_K_M"])
    refused("give each type once", [])
    refused("one file, and 2 types need a folder", ["Q8_0", "F16"], tmp_path / "one.gguf")
    refused("there.gguf exists; --force replaces it", "Q8_0", tmp_path / "there.gguf")
    refused("is the source itself", "Q8_0", wide, force=True)
    refused("there is no folder .*nowhere", "Q8_0", tmp_path / "nowhere" / "x.gguf")
    refused("cannot make the folder", "Q8_0", tmp_path / "there.gguf" / "in")
    refused("cannot quantize", "Q8_0", tmp_path, tensor_types=[("(", "Q8_0")])
    refused("n_threads is -1", "Q8_0", n_threads=-1)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    refused("GB are needed in .* and 0.00 GB are free", "Q8_0", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["there.gguf"]
    assert (tmp_path / "there.gguf").read_text() == "precious"


def test_force_replaces_a_file(wide: Path, tmp_path: Path) -> None:
    target = tmp_path / "there.gguf"
    target.write_text("old")
    quantize(wide, "Q8_0", target, force=True, n_threads=1)
    assert quantization(read_gguf(target)) == "Q8_0"


def test_an_alignment_that_llama_cpp_would_break_is_refused(wide: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd.gguf"
    writer = gguf.GGUFWriter(odd, "llama")
    writer.add_custom_alignment(64)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ReellamaError, match="general.alignment"):
        quantize(odd, "Q8_0", tmp_path)


def test_the_command_writes_here_and_shows_what_came_out(
    wide: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reellama: Callable,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = reellama("gguf", "quantize", wide, "q4_k", "Q8_0", "--tensor-type", "attn=Q6_K")
    assert (result.status, result.err) == (0, "")
    lines = [line.split() for line in result.out.splitlines()]
    assert [(line[0], Path(line[-1]).name) for line in lines] == [
        ("Q4_K_M", "wide-Q4_K_M.gguf"),
        ("Q8_0", "wide-Q8_0.gguf"),
    ]
    assert "Q6_K" in _matrix_types(tmp_path / "wide-Q4_K_M.gguf")
    again = reellama("gguf", "quantize", wide, "Q8_0")
    assert (again.status, again.out) == (1, "")
    assert "exists; --force replaces it" in again.err


def test_the_command_refuses_a_malformed_override(wide: Path, reellama: Callable) -> None:
    assert reellama("gguf", "quantize", wide, "Q8_0", "--tensor-type", "attn").status == 2


def test_the_types_can_be_listed(reellama: Callable) -> None:
    result = reellama("gguf", "quantize", "--types")
    assert result.status == 0
    assert [line.split()[0] for line in result.out.splitlines()[1:]] == [*NAMES, "COPY"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.gguf", "model-Q4_0.gguf"),
        ("model-f16.gguf", "model-Q4_0.gguf"),
        ("Model.Q8_0.gguf", "Model.Q4_0.gguf"),
        ("model_fp16.gguf", "model_Q4_0.gguf"),
        ("model-Q5_K_M-00001-of-00003.gguf", "model-Q4_0.gguf"),
        ("model-iq2_xxs.gguf", "model-Q4_0.gguf"),
        ("q4k-model-v1.5.gguf", "q4k-model-v1.5-Q4_0.gguf"),
        ("sha256-0a1b2c", "My-Model-7B-Q4_0.gguf"),
    ],
)
def test_a_file_is_named_after_the_source_with_the_new_type(name: str, expected: str) -> None:
    file = GGUFFile(Path("/x", name), 3, 0, HeaderMetadata({"general.name": "My Model 7B"}), {})
    assert default_name(file, "Q4_0") == expected
    assert default_name(file, "Q4_0", ["piano"]) == expected.replace("Q4_0", "piano-Q4_0").replace(
        ".piano-", ".piano."
    ).replace("_piano-", "_piano_")


def test_a_type_newer_than_the_package_that_reads_is_known() -> None:
    q2_0 = quant_types.TENSOR_TYPES["Q2_0"]
    assert (q2_0.name, int(q2_0), gguf.GGML_QUANT_SIZES[q2_0]) == ("Q2_0", 42, (64, 18))
    assert {type_.name: type_.bits_per_weight for type_ in QUANT_TYPES}["Q2_0"] == 2.25
