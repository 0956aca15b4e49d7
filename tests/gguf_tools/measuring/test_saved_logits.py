"""A reference's logits in a file: compared with as the reference itself is."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.measuring.perplexity import measure_perplexity
from reellama.gguf_tools.measuring.saved_logits import encode_rows, read_logits, row_slots
from tests.conftest import Result
from tests.helpers import tiny_model

Run = Callable[..., Result]
N_CTX, N_CHUNKS = 64, 5  # which are read in blocks of some chunks and some positions


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("Eight maids a-milking, seven swans a-swimming. " * 12)
    return path


@pytest.fixture(scope="module")
def other(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with another output."""
    rng = np.random.default_rng(3)
    shape = tiny_model.weights("llama")["output.weight"].shape
    changes = {"output.weight": rng.normal(0, 0.05, shape).astype(np.float32)}
    return tiny_model.write(tmp_path_factory.mktemp("other") / "other.gguf", changes=changes)


@pytest.fixture(scope="module")
def saved(tiny_llama: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "logits.bin"
    measure_perplexity(
        tiny_llama, text, n_ctx=N_CTX, n_chunks=N_CHUNKS, n_threads=1, save_logits=path
    )
    return path


@pytest.mark.numeric
def test_the_figures_are_those_of_the_reference_itself(
    tiny_llama: Path, other: Path, text: Path, saved: Path
) -> None:
    options: dict[str, Any] = {"n_ctx": N_CTX, "n_chunks": N_CHUNKS, "n_threads": 1}
    direct = measure_perplexity(other, text, reference=tiny_llama, **options).divergence
    kept = measure_perplexity(other, text, reference_logits=saved, n_threads=1).divergence
    assert direct is not None and kept is not None and kept.reference == saved
    assert kept.kl.value == pytest.approx(direct.kl.value, rel=1e-3)
    assert kept.reference_perplexity.value == pytest.approx(
        direct.reference_perplexity.value, rel=1e-3
    )
    assert kept.p_diff_rms.value == pytest.approx(direct.p_diff_rms.value, rel=1e-3)
    assert kept.same_top == direct.same_top


def test_the_file_is_laid_out_as_llama_perplexity_lays_it_out(saved: Path) -> None:
    content = saved.read_bytes()
    n_vocab = len(tiny_model.TOKENS)
    assert content[:8] == b"_logits_"
    assert struct.unpack("<iii", content[8:20]) == (N_CTX, n_vocab, N_CHUNKS)
    tokens = np.frombuffer(content, "<i4", N_CTX * N_CHUNKS, 20)
    np.testing.assert_array_equal(tokens, read_logits(saved).chunks.reshape(-1))
    n_rows = N_CHUNKS * (N_CTX - 1 - N_CTX // 2)
    assert len(content) == 20 + 4 * len(tokens) + 2 * n_rows * row_slots(n_vocab)
    assert row_slots(n_vocab) == n_vocab + 1 + 4  # an odd vocabulary is made even


rows = st.lists(st.floats(-40, 40, width=32), min_size=2, max_size=9)


@given(rows, st.floats(-5, 5, width=32))
def test_a_row_comes_back_to_a_65535th_of_its_range(logits: list[float], shift: float) -> None:
    row = np.array([logits], np.float32)
    encoded = encode_rows(row)
    scale, least = encoded[0, :4].view("<f4")
    found = encoded[0, 4 : 4 + len(logits)] * scale + least
    expected = row[0] - np.log(np.exp(row[0].astype(np.float64) - row.max()).sum()) - row.max()
    kept = row[0] > row.max() - 16
    np.testing.assert_allclose(found[kept], expected[kept], atol=float(scale) + 1e-4)
    assert (found >= least).all()
    np.testing.assert_array_equal(encode_rows(row + np.float32(0)), encoded)


@pytest.mark.parametrize("cut", [10, -2])
def test_a_file_that_is_cut_off_or_of_something_else_is_refused(
    saved: Path, tmp_path: Path, cut: int
) -> None:
    (tmp_path / "cut.bin").write_bytes(saved.read_bytes()[:cut])
    with pytest.raises(ReellamaError, match="is cut off|has no saved logits"):
        read_logits(tmp_path / "cut.bin")
    (tmp_path / "notes.txt").write_text("These are my notes about logits.")
    with pytest.raises(ReellamaError, match="has no saved logits"):
        read_logits(tmp_path / "notes.txt")


def test_logits_of_another_text_are_not_compared_with(
    tiny_llama: Path, saved: Path, tmp_path: Path
) -> None:
    (tmp_path / "other.txt").write_text("Nine ladies dancing, ten lords a-leaping. " * 12)
    with pytest.raises(ReellamaError, match="it was made from another text than"):
        measure_perplexity(tiny_llama, tmp_path / "other.txt", reference_logits=saved)


def test_the_command_saves_and_compares(
    reellama: Run, tiny_llama: Path, other: Path, text: Path, tmp_path: Path
) -> None:
    file = tmp_path / "logits.bin"
    words = ("gguf", "perplexity", "--threads", "1", "--ctx", "64", "--chunks", "2")
    assert reellama(*words, tiny_llama, text, "--save-logits", file).status == 0
    shown = reellama(*words, other, text, "--reference-logits", file)
    assert shown.status == 0 and "perplexity of logits.bin" in shown.out
    both = reellama(*words, other, text, "--reference-logits", file, "--reference", tiny_llama)
    assert both.status == 1 and "not both" in both.err
    nowhere = reellama(*words, tiny_llama, text, "--save-logits", tmp_path / "no" / "x.bin")
    assert nowhere.status == 1 and "cannot save" in nowhere.err and not nowhere.out
