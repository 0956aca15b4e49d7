"""Encoders such as BERT: what can be measured of them is, and the rest is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from reellama.gguf_tools.quantization.imatrix import read_imatrix
from tests.conftest import Result
from tests.helpers import tiny_bert

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert.write(tmp_path_factory.mktemp("bert") / "bert.gguf")


@pytest.fixture
def bench(reellama: Run, bert: Path) -> Callable[..., Result]:
    def run(*options: str) -> Result:
        return reellama("gguf", "bench", bert, "-r", "1", "-t", "1", "-o", "json", *options)

    return run


def test_how_fast_they_read_is_measured(bench: Callable[..., Result]) -> None:
    result = bench("-p", "16,64", "-n", "0", "-s", "8")
    assert result.status == 0
    rows = json.loads(result.out)
    assert [row["test"] for row in rows] == ["pp16", "pp64", "sp8"]
    assert all(row["avg_ts"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("-p", "16", "-n", "4", "-s", "0"), "leave tg4 out, with -n 0"),
        (("-p", "200", "-n", "0", "-s", "0"), "it was trained with 128"),
        (("-p", "64", "-n", "0", "-s", "0", "-ub", "32"), "64 tokens need -ub 64"),
    ],
)
def test_what_they_cannot_do_is_refused(
    bench: Callable[..., Result], options: tuple[str, ...], reason: str
) -> None:
    result = bench(*options)
    assert result.status == 1 and result.out == ""
    assert reason in result.err.splitlines()[-1]


def test_encoders_have_no_perplexity(reellama: Run, bert: Path) -> None:
    result = reellama("gguf", "perplexity", bert, "--ctx", "32", "--chunks", "1")
    assert result.status == 1 and result.out == ""
    assert "has no perplexity" in result.err


def test_an_importance_matrix_is_made_of_what_they_read(
    reellama: Run, bert: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("what a long day it was " * 20)
    out = tmp_path / "imatrix.gguf"
    words = ("gguf", "imatrix", bert, text, "--ctx", "32", "--chunks", "2", "--output", out)
    assert reellama(*words).status == 0
    assert len(read_imatrix(out).sums) == 6 * tiny_bert.N_LAYER
