"""Importance matrices: the squares of what comes into each weight, in llama.cpp's format."""

import ctypes
import struct
import subprocess
import sys
import time
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
from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.quantization import activations
from reellama.gguf_tools.quantization.activations import GGMLTensor, check_layout
from reellama.gguf_tools.quantization.imatrix import (
    Imatrix,
    collect,
    collect_from_text,
    read_imatrix,
)
from reellama.gguf_tools.quantization.quantize import quantize
from reellama.gguf_tools.runtime.backend import load_model
from reellama.gguf_tools.runtime.batch import BatchSpan
from reellama.gguf_tools.runtime.context import Context
from reellama.gguf_tools.runtime.context_settings import ContextSettings
from reellama.gguf_tools.text.tokenizer import Tokenizer
from tests.helpers import tiny_model

pytestmark = pytest.mark.numeric

N_EXPERTS, N_USED = 4, 2
TEXT = "Ten lords a-leaping, nine ladies dancing, eight maids a-milking.\n" * 6


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose feed-forward networks are mixtures of experts."""
    folder = tmp_path_factory.mktemp("experts")
    plain = tiny_model.write(folder / "plain.gguf")
    rng = np.random.default_rng(1)
    weights = tiny_model.weights("llama")
    for layer in range(tiny_model.N_LAYER):
        block = f"blk.{layer}.ffn_"
        for name in ("gate", "up", "down"):
            shape = weights.pop(f"{block}{name}.weight").shape
            values = rng.normal(0, 0.1, (N_EXPERTS, *shape))
            weights[f"{block}{name}_exps.weight"] = values.astype(np.float32)
        router = rng.normal(0, 0.1, (N_EXPERTS, tiny_model.N_EMBD))
        weights[f"{block}gate_inp.weight"] = router.astype(np.float32)
    counts = metadata_entries({"llama.expert_count": N_EXPERTS, "llama.expert_used_count": N_USED})
    path = folder / "experts.gguf"
    infos = [
        TensorInfo(name, weight.shape[::-1], gguf.GGMLQuantizationType.F32)
        for name, weight in weights.items()
    ]
    content = b"".join(w.tobytes().ljust(aligned_size(w.nbytes), b"\0") for w in weights.values())
    path.write_bytes(header_bytes(raw_entries(plain) | counts, infos) + content)
    return path


def chunks(model: Path, n_ctx: int) -> np.ndarray:
    """The tokens of TEXT in chunks that each begin with the token for that: [n_chunks, n_ctx]."""
    with Tokenizer.from_path(model) as tokenizer:
        ids = tokenizer.encode(TEXT.removesuffix("\n"), add_bos=True)
    n_chunks = len(ids) // n_ctx
    rows = np.array(ids[: n_chunks * n_ctx]).reshape(n_chunks, n_ctx)
    rows[:, 0] = 1
    return rows


def normalised(ids: np.ndarray) -> np.ndarray:
    """What comes into the first layer's attention: embeddings of root mean square 1."""
    rows = tiny_model.weights("llama")["token_embd.weight"][ids.ravel()].astype(np.float64)
    return rows / np.sqrt((rows**2).mean(axis=1, keepdims=True) + 1e-5)


def test_it_is_the_squares_of_what_comes_into_each_matrix(tiny_llama: Path, text: Path) -> None:
    matrix = collect_from_text(tiny_llama, text, n_ctx=64, n_threads=1)
    ids = chunks(tiny_llama, 64)
    expected = (normalised(ids) ** 2).sum(axis=0)
    for name in ("q", "k", "v"):
        weight = f"blk.0.attn_{name}.weight"
        np.testing.assert_allclose(matrix.sums[weight], expected[None], rtol=1e-4)
        assert matrix.counts[weight].tolist() == [ids.size]
    np.testing.assert_array_equal(
        matrix.sums["blk.1.ffn_up.weight"], matrix.sums["blk.1.ffn_gate.weight"]
    )
    blocks = {name for name in tiny_model.weights("llama") if name.startswith("blk.")}
    assert set(matrix.sums) == {name for name in blocks if "norm" not in name}
    assert matrix.sums["blk.1.ffn_down.weight"].shape == (1, tiny_model.N_FF)
    assert (matrix.chunk_count, matrix.chunk_size) == (len(ids), 64)


def test_chunks_are_read_side_by_side_as_llama_imatrix_does(tiny_llama: Path, text: Path) -> None:
    """llama-imatrix gives llama.cpp all chunks in one batch; kernels round by its shape."""
    matrix = collect_from_text(tiny_llama, text, n_ctx=64, n_threads=1)
    rows = chunks(tiny_llama, 64)
    activations_ = activations.Activations()
    with (
        load_model(tiny_llama) as model,
        Context(
            model,
            64,
            ContextSettings(n_threads=1),
            n_seq=len(rows),
            n_outputs=rows.size,
            on_node=activations_.callback,
        ) as context,
    ):
        context.decode_batch([BatchSpan(row, 0, i, 0) for i, row in enumerate(rows)])
        activations_.check()
    for name, sums in activations_.sums.items():
        np.testing.assert_allclose(matrix.sums[name], sums.astype(np.float32), rtol=1e-6)


def test_the_last_layer_counts_every_position(tiny_llama: Path, text: Path) -> None:
    matrix = collect_from_text(tiny_llama, text, n_ctx=64, n_chunks=2, n_threads=1)
    assert {int(count[0]) for count in matrix.counts.values()} == {128}


def test_soft_tokens_count_as_the_tokens_that_they_are(tiny_llama: Path) -> None:
    ids = chunks(tiny_llama, 64)
    embeddings = tiny_model.weights("llama")["token_embd.weight"]
    prompts = [[embeddings[row]] for row in ids]
    soft = collect(tiny_llama, iter(prompts), n_ctx=64, n_threads=1)
    hard = collect(tiny_llama, [[row] for row in ids], n_ctx=64, n_threads=1)
    for name, sums in hard.sums.items():
        np.testing.assert_allclose(soft.sums[name], sums, rtol=1e-4)
    mixed = [[row[:20].tolist(), embeddings[row[20:44]], row[44:]] for row in ids]
    both = collect(tiny_llama, mixed, n_ctx=64, n_threads=1)
    for name, sums in hard.sums.items():  # attention reads a KV cache in half precision
        np.testing.assert_allclose(both.sums[name], sums, rtol=2e-2)


def test_parts_too_short_to_say_much_do_not_count(tiny_llama: Path) -> None:
    ids = chunks(tiny_llama, 64)[0]
    matrix = collect(tiny_llama, [[ids[:8], ids[8:40], ids[40:50]]], n_ctx=64, n_threads=1)
    assert {int(count[0]) for count in matrix.counts.values()} == {32}
    with pytest.raises(ReellamaError, match="nothing was collected"):
        collect(tiny_llama, [[ids[:8]]], n_ctx=64, n_threads=1)
    with pytest.raises(ReellamaError, match="more than the 64 positions"):
        collect(tiny_llama, [[ids, ids]], n_ctx=64, n_threads=1)


def test_experts_count_what_is_sent_to_them(experts: Path, text: Path, tmp_path: Path) -> None:
    matrix = collect_from_text(experts, text, n_ctx=64, n_threads=1)
    for layer in range(tiny_model.N_LAYER):
        router, up, gate, down = (
            f"blk.{layer}.ffn_{name}.weight"
            for name in ("gate_inp", "up_exps", "gate_exps", "down_exps")
        )
        n_tokens = matrix.counts[router][0]
        for name in (up, gate, down):
            assert matrix.counts[name].shape == (N_EXPERTS,)
            assert matrix.counts[name].sum() == N_USED * n_tokens
        # Every token goes to two experts, so together they saw twice what the router saw.
        np.testing.assert_allclose(
            matrix.sums[up].sum(axis=0), N_USED * matrix.sums[router][0], rtol=1e-4
        )
        np.testing.assert_array_equal(matrix.sums[up], matrix.sums[gate])
        assert matrix.sums[down].shape == (N_EXPERTS, tiny_model.N_FF)
    matrix.write(tmp_path / "imatrix.gguf")
    quantize(experts, "Q8_0", tmp_path, imatrix=tmp_path / "imatrix.gguf")


def test_what_is_written_is_read_again(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    matrix = collect_from_text(tiny_llama, text, n_ctx=64, n_chunks=1, n_threads=1)
    path = tmp_path / "imatrix.gguf"
    matrix.write(path)
    same(read_imatrix(path), matrix)
    file = read_gguf(path)
    assert file.metadata == {
        "general.type": "imatrix",
        "imatrix.datasets": [str(text)],
        "imatrix.chunk_count": 1,
        "imatrix.chunk_size": 64,
    }
    assert list(file.tensors) == sorted(file.tensors, key=lambda name: name.rpartition(".")[0])
    assert file.tensors["blk.0.attn_q.weight.in_sum2"].shape == (64,)
    assert file.tensors["blk.0.attn_q.weight.counts"].shape == (1,)


def same(one: Imatrix, other: Imatrix) -> None:
    assert one.sums.keys() == other.sums.keys()
    for name, sums in one.sums.items():
        np.testing.assert_array_equal(sums, other.sums[name])
        np.testing.assert_array_equal(one.counts[name], other.counts[name])
    assert (one.datasets, one.chunk_count) == (other.datasets, other.chunk_count)


def test_an_expert_without_tokens_weighs_all_its_inputs_alike() -> None:
    matrix = Imatrix(
        {"w": np.array([[2, 4], [0, 0]], np.float32)}, {"w": np.array([2, 0], np.float32)}, (), 1, 9
    )
    assert matrix.weights()["w"].tolist() == [1, 2, 1, 1]


def test_the_older_format_is_read(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.dat"
    name, values = b"blk.0.attn_q.weight", [3.0, 6.0]
    entry = struct.pack("<i", len(name)) + name + struct.pack("<ii2f", 3, 2, *values)
    whole = struct.pack("<i", 1) + entry + struct.pack("<ii", 3, 4) + b"wiki"
    path.write_bytes(whole)
    matrix = read_imatrix(path)
    assert matrix.weights()["blk.0.attn_q.weight"].tolist() == [1, 2]
    assert (matrix.datasets, matrix.chunk_count) == (("wiki",), 3)
    for cut in (3, 20, 40, 50):
        path.write_bytes(whole[:cut])
        with pytest.raises(GGUFError, match="is not an importance matrix, or it is damaged"):
            read_imatrix(path)


def test_files_that_are_no_imatrix_are_refused(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match="is not an importance matrix; make one"):
        read_imatrix(tiny_llama)
    with pytest.raises(GGUFError, match="cannot read .*missing"):
        read_imatrix(tmp_path / "missing.gguf")


def test_a_text_that_is_too_short_or_missing_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises(ReellamaError, match="short.txt has .* too few for one chunk of 512"):
        collect_from_text(tiny_llama, tmp_path / "short.txt")
    with pytest.raises(ReellamaError, match="cannot read .*missing.txt"):
        collect_from_text(tiny_llama, tmp_path / "missing.txt")


def test_a_tensor_that_is_laid_out_otherwise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = [("more", ctypes.c_int64), *GGMLTensor._fields_]
    other = type("Other", (ctypes.Structure,), {"_fields_": fields})
    check_layout()
    check_layout.cache_clear()
    monkeypatch.setattr(activations, "GGMLTensor", other)
    with pytest.raises(ReellamaError, match="keeps its tensors in another way"):
        check_layout()


def test_the_command_writes_a_matrix_beside_nothing_else(
    tiny_llama: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reellama: Callable,
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("gguf", "imatrix", tiny_llama, text, "--ctx", "64", "--chunks", "2")
    result = reellama(*arguments, "--threads", "1")
    assert (result.status, result.err) == (0, "")
    assert result.out == "llama-imatrix.gguf: 14 tensors, from 2 chunks of 64 tokens\n"
    assert read_imatrix("llama-imatrix.gguf").chunk_count == 2
    again = reellama(*arguments)
    assert again.status == 1
    assert "llama-imatrix.gguf exists; --force replaces it" in again.err


def test_ctrl_c_leaves_no_file(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text(TEXT * 100)
    code = (
        "import itertools, sys\n"
        "from reellama.gguf_tools.text import text_chunks\n"
        "from reellama.pipeline.cli.main import main\n"
        "blocks = text_chunks.blocks\n"
        "def endless_blocks(*a):\n"
        "    sys.stderr.write('.'); sys.stderr.flush()\n"
        "    return itertools.cycle(list(blocks(*a)))\n"
        "text_chunks.blocks = endless_blocks\n"
        "main()"
    )
    out = tmp_path / "out.gguf"
    command = [sys.executable, "-c", code, "gguf", "imatrix", str(tiny_llama)]
    command += [str(tmp_path / "long.txt"), "-o", str(out), "--threads", "1"]
    child = subprocess.Popen(command, stderr=subprocess.PIPE)
    assert child.stderr is not None
    assert child.stderr.read(1) == b"."
    child.send_signal(2)
    started = time.monotonic()
    err = child.communicate(timeout=60)[1]
    assert child.returncode == 130
    assert time.monotonic() - started < 30
    assert b"Traceback" not in err
    assert not out.exists()
