"""Importance matrices that are saved on the way, gone on with, joined and looked into."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.quantization.imatrix import Imatrix, collect_from_text, read_imatrix
from reellama.gguf_tools.quantization.imatrix_statistics import (
    imatrix_statistics,
    merge_imatrices,
)
from tests.conftest import Result

Run = Callable[..., Result]
N_CTX = 512


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About eleven chunks of 512 bytes, which are the tokens of the tiny model."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    lines = [
        f"On day {day} of Christmas {day * 7919 % 1000} drummers drum.\n" for day in range(130)
    ]
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def whole(tiny_llama: Path, text: Path) -> Imatrix:
    return collect_from_text(tiny_llama, text, n_ctx=N_CTX, n_threads=1)


def assert_alike(found: Imatrix, expected: Imatrix) -> None:
    assert found.sums.keys() == expected.sums.keys()
    assert (found.chunk_count, found.chunk_size) == (expected.chunk_count, expected.chunk_size)
    for name, sums in expected.sums.items():
        np.testing.assert_array_equal(found.counts[name], expected.counts[name])
        np.testing.assert_allclose(found.sums[name], sums, rtol=1e-4)


def test_a_run_that_was_stopped_is_gone_on_with(
    tiny_llama: Path, text: Path, whole: Imatrix, tmp_path: Path
) -> None:
    class StoppedError(Exception):
        pass

    snapshots: list[Imatrix] = []

    def save(matrix: Imatrix) -> None:
        matrix.write(tmp_path / "part.gguf")
        snapshots.append(matrix)
        if len(snapshots) == 2:
            raise StoppedError

    options: dict[str, Any] = {"n_ctx": N_CTX, "n_threads": 1}
    with pytest.raises(StoppedError):
        collect_from_text(tiny_llama, text, save=save, save_every=3, **options)
    assert [matrix.chunk_count for matrix in snapshots] == [4, 8]  # four are read side by side
    earlier = read_imatrix(tmp_path / "part.gguf")
    read: list[float] = []
    found = collect_from_text(
        tiny_llama, text, resume_from=earlier, progress=lambda done, _: read.append(done), **options
    )
    assert min(read) > 8
    assert_alike(found, whole)
    assert collect_from_text(tiny_llama, text, resume_from=found, **options) is found


def test_what_was_collected_from_another_text_is_not_gone_on_with(
    tiny_llama: Path, text: Path, whole: Imatrix
) -> None:
    for other in (replace(whole, datasets=("other.txt",)), replace(whole, chunk_size=64)):
        with pytest.raises(ReellamaError, match="what is there was collected from"):
            collect_from_text(tiny_llama, text, n_ctx=N_CTX, resume_from=other)


def test_the_command_saves_goes_on_and_joins(
    reellama: Run, tiny_llama: Path, text: Path, whole: Imatrix, tmp_path: Path
) -> None:
    out, both = tmp_path / "out.gguf", tmp_path / "both.gguf"
    words = ("gguf", "imatrix", tiny_llama, text, "--threads", "1", "-o", out)
    assert reellama(*words, "--chunks", "4", "--save-every", "4").status == 0
    refused = reellama(*words)
    assert refused.status == 1 and "--force replaces it, --resume goes on" in refused.err
    assert reellama(*words, "--resume").status == 0
    assert_alike(read_imatrix(out), whole)
    joined = reellama("gguf", "imatrix", tiny_llama, "--merge", out, "--merge", out, "-o", both)
    assert joined.status == 0
    matrix = read_imatrix(both)
    assert matrix.chunk_count == 2 * whole.chunk_count and len(matrix.datasets) == 2
    name = "blk.0.attn_q.weight"
    np.testing.assert_allclose(matrix.weights()[name], whole.weights()[name], rtol=1e-4)


def test_a_place_that_cannot_be_written_is_told_before_anything_is_read(
    reellama: Run, tiny_llama: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "reellama.gguf_tools.quantization.imatrix.collect_from_text",
        lambda *_, **__: pytest.fail("read"),
    )
    for place in (tmp_path / "no" / "out.gguf", tmp_path):
        result = reellama("gguf", "imatrix", tiny_llama, text, "--force", "-o", place)
        assert result.status == 1 and f"cannot save {place}" in result.err
    nothing = reellama("gguf", "imatrix", tiny_llama, "-o", tmp_path / "out.gguf")
    assert nothing.status == 2 and "there is nothing to read" in nothing.err


def test_line_ends_of_a_text_are_read_as_they_are(tiny_llama: Path, tmp_path: Path) -> None:
    found = []
    for name, ending in (("unix", b"\n"), ("windows", b"\r\n")):
        (tmp_path / name).write_bytes((b"a line of text" + ending) * 60)
        found.append(collect_from_text(tiny_llama, tmp_path / name, n_ctx=512, n_threads=1))
    one, other = (matrix.sums["blk.0.attn_q.weight"] for matrix in found)
    assert not np.allclose(one, other, rtol=1e-3)


def test_the_output_matrix_counts_where_it_is_asked_for(
    tiny_llama: Path, text: Path, whole: Imatrix
) -> None:
    with_output = collect_from_text(
        tiny_llama, text, n_ctx=N_CTX, n_chunks=1, n_threads=1, process_output=True
    )
    assert with_output.sums.keys() - whole.sums.keys() == {"output.weight"}


def one_tensor(values: list[float], count: float = 1.0) -> Imatrix:
    name = "blk.0.attn_q.weight"
    sums = np.array([values], np.float32)
    return Imatrix({name: sums}, {name: np.array([count], np.float32)}, (), 1, 16)


@given(st.lists(st.floats(0.0, 1e3, width=32), min_size=2, max_size=20), st.integers(1, 99))
def test_statistics_are_those_of_the_means(values: list[float], count: int) -> None:
    if not sum(values):
        return
    (found,) = imatrix_statistics(one_tensor([value * count for value in values], count))
    means = np.array(values, np.float32).astype(np.float64)
    assert math.isclose(found.total, means.sum(), rel_tol=1e-5)
    assert math.isclose(found.deviation, means.std(), rel_tol=1e-3, abs_tol=1e-3)
    assert found.minimum <= found.mean * (1 + 1e-6) and found.mean <= found.maximum * (1 + 1e-6)
    assert 0 <= found.evenness <= 1 + 1e-9 and 0 <= found.outliers < 1


def test_equal_inputs_are_spread_evenly_and_layers_are_compared() -> None:
    (even,) = imatrix_statistics(one_tensor([2.0] * 8))
    assert even.entropy == pytest.approx(3) and even.evenness == pytest.approx(1)
    assert even.similarity is None and even.outliers == 0
    sums = {f"blk.{i}.attn_q.weight": np.array([[1.0, float(i)]], np.float32) for i in (0, 1)}
    counts = {name: np.ones(1, np.float32) for name in sums}
    found = {each.tensor: each for each in imatrix_statistics(Imatrix(sums, counts, (), 1, 16))}
    assert found["blk.1.attn_q.weight"].similarity == pytest.approx(2**-0.5)


def test_matrices_of_other_models_are_not_joined(tmp_path: Path) -> None:
    one, other = one_tensor([1.0, 2.0]), one_tensor([1.0, 2.0, 3.0])
    with pytest.raises(ReellamaError, match=r"b\.gguf and a\.gguf are of different models"):
        merge_imatrices([(Path("a.gguf"), one), (Path("b.gguf"), other)])


def test_the_command_shows_statistics(reellama: Run, whole: Imatrix, tmp_path: Path) -> None:
    whole.write(tmp_path / "m.gguf")
    result = reellama("gguf", "imatrix", "--show-statistics", tmp_path / "m.gguf")
    assert result.status == 0
    head, *rows = result.out.splitlines()
    assert head.split()[:4] == ["tensor", "sum", "min", "max"] and len(rows) == len(whole.sums)
