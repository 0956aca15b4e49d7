"""How many layers fit into a GPU's memory."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_tools import fit
from gguf_tools.errors import ReellamaError
from gguf_tools.find import smollm2
from gguf_tools.reader import GGUFFile, read_gguf

FILE = read_gguf(smollm2())
GIB = 1 << 30
memory = st.integers(-1, 8 * GIB)
contexts = st.integers(1, 8192)


@given(memory, memory, contexts)
def test_more_memory_never_holds_fewer_layers(one: int, other: int, n_ctx: int) -> None:
    less, more = sorted((one, other))
    few, many = (fit.gpu_layers(FILE, n_ctx, free) for free in (less, more))
    assert 0 <= few <= many <= FILE.n_layer + 1


@given(memory, contexts, contexts)
def test_a_longer_context_never_leaves_room_for_more_layers(free: int, a: int, b: int) -> None:
    short, long = sorted((a, b))
    assert fit.gpu_layers(FILE, long, free) <= fit.gpu_layers(FILE, short, free)


@given(memory, contexts)
def test_what_is_said_to_fit_fits_and_one_more_would_not(free: int, n_ctx: int) -> None:
    n_layers = fit.gpu_layers(FILE, n_ctx, free)
    *layers, output = fit.layer_bytes(FILE)
    costs = [output]  # the output layer moves first, then the last layer, and on to the first
    for index in reversed(range(FILE.n_layer)):
        costs.append(layers[index] + fit.kv_bytes(FILE, index, n_ctx))
    base = fit.OVERHEAD + fit.compute_bytes(FILE, n_ctx)
    if n_layers:
        assert base + sum(costs[:n_layers]) <= free
    if n_layers <= FILE.n_layer:
        assert base + sum(costs[: n_layers + 1]) > free


def test_nothing_fits_into_nothing_and_all_into_a_large_gpu() -> None:
    assert fit.gpu_layers(FILE, 4096, 0) == 0
    assert fit.gpu_layers(FILE, 4096, 80 * GIB) == FILE.n_layer + 1


def test_the_layers_are_the_whole_file_but_for_its_header() -> None:
    # SmolLM2's output matrix is its token embeddings again, so these count, and count once.
    tensors = sum(tensor.n_bytes for tensor in FILE.tensors.values())
    assert sum(fit.layer_bytes(FILE)) == tensors
    assert 0.97 * FILE.size < tensors < FILE.size


def test_the_kv_cache_of_smollm2_is_three_heads_of_64_for_keys_and_values() -> None:
    assert fit.kv_bytes(FILE, 0, 4096) == 4096 * 3 * 64 * 2 * 2  # f16
    q8_0 = fit.kv_bytes(FILE, 0, 4096, "q8_0", "q8_0")
    assert q8_0 == 4096 * 3 * 64 * 2 * 34 // 32  # 34 bytes hold 32 numbers


def test_heads_may_differ_between_layers() -> None:
    metadata = FILE.metadata | {"llama.attention.head_count_kv": [1, 9] + [3] * 28}
    file = GGUFFile(Path("mixed.gguf"), 3, FILE.size, metadata, FILE.tensors)
    assert fit.kv_bytes(file, 1, 100) == 9 * fit.kv_bytes(file, 0, 100)


def test_a_smaller_kv_type_leaves_room_for_more_layers() -> None:
    free = 700 << 20
    f16, q4_0 = (fit.gpu_layers(FILE, 4096, free, kind, kind) for kind in ("f16", "q4_0"))
    assert q4_0 > f16 > 0


def test_an_unknown_kv_type_is_named() -> None:
    with pytest.raises(ReellamaError, match="no such KV cache type: f17"):
        fit.gpu_layers(FILE, 4096, GIB, type_k="f17")
