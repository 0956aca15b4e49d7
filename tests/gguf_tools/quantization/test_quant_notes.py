"""What a quantization does otherwise than a person may think is said, before or in place of it."""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.quantization.imatrix import collect_from_text, read_imatrix
from reellama.gguf_tools.quantization.quantize import quantize
from tests.conftest import Result
from tests.helpers import tiny_model


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose rows are long enough (256) for every type."""
    path = tmp_path_factory.mktemp("wide") / "wide-f32.gguf"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_model, "N_EMBD", 256)
        patch.setattr(tiny_model, "N_FF", 256)
        tiny_model.write(path)
    return path


def notes(source: Path, type_name: str, **options: object) -> str:
    (planned,) = quantize(source, type_name, dry_run=True, **options)  # type: ignore[arg-type]
    return " | ".join(planned.notes)


def test_floats_made_of_a_quantized_model(smollm2: Path) -> None:
    assert "F16 made of Q4_1, Q8_0 is larger and no better" in notes(smollm2, "F16")


def test_experts_types_for_a_model_without_experts(wide: Path) -> None:
    assert "this model is none: its matrices are Q8_0" in notes(wide, "MXFP4_MOE")
    assert notes(wide, "Q8_0") == ""


def test_patterns_are_in_lower_case_as_names_are(wide: Path) -> None:
    pattern = r"BLK\.\D*0\.ATTN_V"
    assert notes(wide, "Q8_0", tensor_types=[(pattern, "F16")]) == notes(wide, "Q8_0")
    sizes = [
        quantize(wide, "Q8_0", dry_run=True, tensor_types=types)[0].n_bytes
        for types in ([], [(r"BLK\.0\.ATTN_V", "F32")], [(r"blk\.0\.attn_v", "F32")])
    ]
    assert sizes[0] < sizes[1] == sizes[2]


def test_a_pattern_that_is_found_nowhere(wide: Path) -> None:
    told = notes(wide, "Q8_0", tensor_types=[("attn_w", "F16"), ("attn_q", "F16")])
    assert "no tensor has a name in which 'attn_w' is found" in told
    assert "attn_q" not in told


def test_an_imatrix_that_lacks_tensors(wide: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Twelve drummers drumming, eleven pipers piping. " * 20)
    path = tmp_path / "imatrix.gguf"
    matrix = collect_from_text(wide, text, n_ctx=128, n_chunks=1, n_threads=1)
    matrix.write(path)
    assert notes(wide, "Q4_K_M", imatrix=path) == ""
    del matrix.sums["blk.1.ffn_up.weight"], matrix.counts["blk.1.ffn_up.weight"]
    replace(read_imatrix(path), sums=matrix.sums, counts=matrix.counts).write(path)
    told = notes(wide, "Q4_K_M", imatrix=path)
    assert "nothing about 1 of 14 tensors, such as blk.1.ffn_up.weight" in told


def test_the_tensor_that_needs_an_imatrix_is_named_in_a_mix(wide: Path) -> None:
    with pytest.raises(
        ReellamaError, match=r"blk\.0\.attn_q\.weight as IQ2_XXS needs an importance matrix"
    ):
        notes(wide, "Q8_0", tensor_types=[("attn_q", "IQ2_XXS")])


def test_a_disk_that_takes_no_more(wide: Path, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(ReellamaError, match="took no more while Q8_0 was written") as caught:
            quantize(wide, "Q8_0", tmp_path / "made.gguf")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_one_part_of_a_model_under_another_name(
    reellama: Callable[..., Result], tmp_path: Path
) -> None:
    part = tiny_model.write(tmp_path / "model.gguf", keys={"split.count": 3, "split.no": 0})
    for words in (("inspect", part), ("quantize", part, "Q8_0"), ("perplexity", part)):
        result = reellama("gguf", *words)
        assert result.status == 1 and result.out == ""
        assert f"{part} is one of 3 files of a model" in result.err
        assert "NAME-00001-of-00003.gguf" in result.err
    assert [path.name for path in tmp_path.glob("*.gguf")] == ["model.gguf"]
