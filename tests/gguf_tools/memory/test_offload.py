"""How many layers fit into a GPU's memory, and that llama.cpp takes as much as is estimated."""

import ctypes
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import llama_cpp.llama_cpp as llama
import numpy as np
import pytest
from gguf import GGMLQuantizationType, LlamaFileType
from hypothesis import given
from hypothesis import strategies as st

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.header_metadata import HeaderMetadata
from reellama.gguf_tools.format.reader import GGUFFile, Tensor, read_gguf
from reellama.gguf_tools.format.tensor_types import tensor_type
from reellama.gguf_tools.locate.find import smollm2
from reellama.gguf_tools.memory import estimates, offload
from reellama.gguf_tools.quantization.quant_presets import PRESETS, as_preset
from reellama.gguf_tools.runtime import backend
from reellama.gguf_tools.runtime.backend import Device, load_model, log_lines
from reellama.gguf_tools.sizes import parse_size
from tests.conftest import Result
from tests.helpers import tiny_model

Reellama = Callable[..., Result]

FILE = read_gguf(smollm2())
GIB = 1 << 30
free_memory = st.integers(-1, 8 * GIB)
contexts = st.integers(1, 8192)


@given(free_memory, free_memory, contexts)
def test_more_memory_never_holds_fewer_layers(one: int, other: int, n_ctx: int) -> None:
    less, more = sorted((one, other))
    few, many = (offload.count_fitting_layers(FILE, n_ctx, free) for free in (less, more))
    assert 0 <= few <= many <= FILE.n_layer + 1


@given(free_memory, contexts, contexts)
def test_a_longer_context_never_leaves_room_for_more_layers(free: int, a: int, b: int) -> None:
    short, long = sorted((a, b))
    assert offload.count_fitting_layers(FILE, long, free) <= offload.count_fitting_layers(
        FILE, short, free
    )


@given(free_memory, contexts)
def test_what_is_said_to_fit_fits_and_one_more_would_not(free: int, n_ctx: int) -> None:
    n_layers = offload.count_fitting_layers(FILE, n_ctx, free)
    *layers, output = estimates.layer_weight_bytes(FILE)
    cache = estimates.kv_bytes(FILE, 0, n_ctx)  # all layers of SmolLM2 are alike

    def needed(n: int) -> int:
        """The output layer moves first, then the last layer, and on to the first."""
        there = layers[FILE.n_layer + 1 - n :]
        # The weights that stay are copied over, a layer at a time, to read a prompt.
        staged = max(layers[: FILE.n_layer + 1 - n], default=0)
        base = offload.GPU_OVERHEAD_BYTES + estimates.compute_bytes(FILE, n_ctx) + staged
        return base + output + sum(there) + len(there) * cache

    if n_layers:
        assert needed(n_layers) <= free
    if n_layers <= FILE.n_layer:
        assert needed(n_layers + 1) > free


@given(free_memory)
def test_the_longest_context_fits_and_a_longer_one_does_not(free: int) -> None:
    n_ctx = offload.max_context(FILE, free)
    assert 0 <= n_ctx <= FILE.n_ctx_train
    if n_ctx:
        assert offload.count_fitting_layers(FILE, n_ctx, free) == FILE.n_layer + 1
    if n_ctx < FILE.n_ctx_train:
        assert offload.count_fitting_layers(FILE, n_ctx + 1, free) < FILE.n_layer + 1


@given(free_memory, contexts)
def test_a_plan_adds_up(free: int, n_ctx: int) -> None:
    plan = offload.plan_offload(FILE, n_ctx, free, "q8_0", "q8_0")
    assert plan.n_gpu_layers == offload.count_fitting_layers(FILE, n_ctx, free, "q8_0", "q8_0")
    assert plan.max_n_ctx == offload.max_context(FILE, free, "q8_0", "q8_0")
    assert plan.gpu_bytes <= max(free, 0)
    assert (plan.all_bytes <= free) == (plan.n_gpu_layers == plan.n_gpu_layers_all)


def test_the_share_on_a_gpu_grows_by_a_layer_s_weights_until_all_is_there() -> None:
    shares = [offload.gpu_share(FILE, n) for n in range(FILE.n_layer + 2)]
    *layers, output = estimates.layer_weight_bytes(FILE)
    steps = np.diff(shares) * (sum(layers) + output)
    assert steps == pytest.approx([output, *reversed(layers)])
    assert shares[0] == 0 and shares[-1] == offload.gpu_share(FILE, -1) == pytest.approx(1)


def test_nothing_fits_into_nothing_and_all_into_a_large_gpu() -> None:
    assert offload.count_fitting_layers(FILE, 4096, 0) == 0
    assert offload.count_fitting_layers(FILE, 4096, 80 * GIB) == FILE.n_layer + 1


def test_no_context_means_the_one_it_was_trained_on() -> None:
    assert offload.count_fitting_layers(FILE, 0, 600 << 20) == offload.count_fitting_layers(
        FILE, 8192, 600 << 20
    )


def test_the_layers_are_the_whole_file_but_for_its_header() -> None:
    # SmolLM2's output matrix is its token embeddings again, so these count, and count once.
    tensors = sum(tensor.n_bytes for tensor in FILE.tensors.values())
    assert sum(estimates.layer_weight_bytes(FILE)) == tensors
    assert 0.97 * FILE.size < tensors < FILE.size


def test_the_kv_cache_of_smollm2_is_three_heads_of_64_for_keys_and_values() -> None:
    assert estimates.kv_bytes(FILE, 0, 4096) == 4096 * 3 * 64 * 2 * 2  # f16
    q8_0 = estimates.kv_bytes(FILE, 0, 4096, "q8_0", "q8_0")
    assert q8_0 == 4096 * 3 * 64 * 2 * 34 // 32  # 34 bytes hold 32 numbers


def with_metadata(changes: dict[str, object]) -> GGUFFile:
    return replace(FILE, metadata=HeaderMetadata({**FILE.metadata, **changes}))


def test_heads_may_differ_between_layers() -> None:
    file = with_metadata({"llama.attention.head_count_kv": [1, 9] + [3] * 28})
    assert estimates.kv_bytes(file, 1, 100) == 9 * estimates.kv_bytes(file, 0, 100)


def test_latent_attention_keeps_no_values_and_an_encoder_nothing() -> None:
    latent = with_metadata({"llama.attention.key_length_mla": 192})
    assert estimates.kv_bytes(latent, 0, 256) == estimates.kv_bytes(FILE, 0, 256) // 2
    encoder = with_metadata({"llama.attention.causal": False})
    assert estimates.kv_bytes(encoder, 0, 256) == 0


def test_layers_that_use_an_earlier_layer_s_cache_have_none() -> None:
    file = with_metadata({"llama.attention.shared_kv_layers": 10})
    assert [estimates.kv_bytes(file, layer, 256) > 0 for layer in (0, 19, 20, 29)] == [1, 1, 0, 0]


def test_a_smaller_kv_type_leaves_room_for_more_layers() -> None:
    free = 600 << 20
    f16, q4_0 = (
        offload.count_fitting_layers(FILE, 4096, free, kind, kind) for kind in ("f16", "q4_0")
    )
    assert q4_0 > f16 > 0


def test_an_unknown_kv_type_is_named() -> None:
    for name in ("f17", "q4_k"):
        with pytest.raises(ReellamaError, match=f"no such KV cache type: {name}; take f32, f16"):
            offload.count_fitting_layers(FILE, 4096, GIB, type_k=name)


@pytest.fixture(scope="module", params=["smollm2", "gemma"])
def loaded(request: pytest.FixtureRequest) -> Iterator[tuple[backend.Model, list[str]]]:
    """A model and what llama.cpp logged when it loaded it."""
    with load_model(request.getfixturevalue(request.param)) as model:
        yield model, log_lines()


@pytest.fixture(scope="module")
def model(loaded: tuple[backend.Model, list[str]]) -> backend.Model:
    return loaded[0]


def allocated(lines: list[str], what: str) -> float:
    """MiB that llama.cpp says it allocated: of "model", "KV", "RS" or "compute".

    On some processors it keeps a second, repacked copy of some weights beside the mapped file; the
    pages of those in the file are read once and then free to go, so only the file's are counted.
    """
    kept = (line for line in lines if "CPU_REPACK" not in line)
    found = (re.search(rf" {what} buffer size = +([\d.]+) MiB", line) for line in kept)
    return sum(float(match[1]) for match in found if match)


def make_context(
    model: backend.Model,
    n_ctx: int,
    type_: str = "f16",
    *,
    swa_full: bool = True,
    flash_attn: bool = True,
    n_outputs: int = 1,
) -> list[str]:
    """Make a context and free it; returns what llama.cpp logged of it."""
    params = llama.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_threads = n_ctx, estimates.N_UBATCH, 1
    params.n_outputs_max = params.n_outputs_max_per_seq = n_outputs
    params.type_k = params.type_v = GGMLQuantizationType[type_.upper()]
    params.swa_full, params.flash_attn_type = swa_full, int(flash_attn)
    context = llama.llama_init_from_model(model.ptr, params)
    assert context, backend.last_errors()
    llama.llama_free(context)
    lines = log_lines()
    starts = [i for i, line in enumerate(lines) if "constructing llama_context" in line]
    return lines[starts[-1] :]


ROUNDED = 0.011  # MiB: llama.cpp prints two digits of each of two caches


def test_the_weights_are_the_tensors(loaded: tuple[backend.Model, list[str]]) -> None:
    model, lines = loaded
    tensors = sum(tensor.n_bytes for tensor in model.file.tensors.values())
    assert tensors / 2**20 == pytest.approx(allocated(lines, "model"), abs=ROUNDED)


@pytest.mark.parametrize("type_", ["f16", "q8_0", "q4_0"])
@pytest.mark.parametrize("swa_full", [True, False])
@pytest.mark.parametrize("n_ctx", [512, 4000, 8192])  # 4,000 is no multiple of 256
def test_the_kv_cache_is_what_llama_cpp_allocates(
    model: backend.Model, n_ctx: int, swa_full: bool, type_: str
) -> None:
    real = allocated(make_context(model, n_ctx, type_, swa_full=swa_full), "KV")
    estimate = sum(
        estimates.kv_bytes(model.file, layer, n_ctx, type_, type_, swa_full=swa_full)
        for layer in range(model.n_layer)
    )
    assert estimate / 2**20 == pytest.approx(real, abs=ROUNDED)


@pytest.mark.parametrize("n_outputs", [1, 64, 512])
@pytest.mark.parametrize("flash_attn", [True, False])
@pytest.mark.parametrize("n_ctx", [512, 4096, 16384])
def test_there_is_room_to_compute_and_not_far_more(
    model: backend.Model, n_ctx: int, flash_attn: bool, n_outputs: int
) -> None:
    lines = make_context(model, n_ctx, swa_full=False, flash_attn=flash_attn, n_outputs=n_outputs)
    real = allocated(lines, "compute")
    estimate = estimates.compute_bytes(
        model.file, n_ctx, swa_full=False, flash_attn=flash_attn, n_outputs=n_outputs
    )
    assert real <= estimate / 2**20 <= 1.15 * real + 12


def test_the_state_of_recurrent_layers_is_counted(tmp_path: Path) -> None:
    path = tiny_model.write(tmp_path / "mamba.gguf", "mamba")
    file = read_gguf(path)
    short, long = (
        sum(estimates.kv_bytes(file, layer, n_ctx) for layer in range(file.n_layer))
        for n_ctx in (256, 4096)
    )
    assert short == long
    with load_model(path) as model:
        lines = make_context(model, 512, flash_attn=False, n_outputs=512)
    assert short / 2**20 == pytest.approx(allocated(lines, "RS"), abs=ROUNDED)
    compute = estimates.compute_bytes(file, 512, flash_attn=False)
    assert allocated(lines, "compute") <= compute / 2**20


@pytest.mark.parametrize("name", PRESETS)
def test_sizes_at_other_types_are_those_of_llama_cpp_s_quantizer(name: str, smollm2: Path) -> None:
    check_mixture(smollm2, name)


@pytest.mark.parametrize("name", ["Q4_K_M", "IQ4_XS", "Q2_K"])
def test_models_with_shared_heads_get_more_bits_for_them(name: str, gemma: Path) -> None:
    check_mixture(gemma, name)


def check_mixture(path: Path, name: str) -> None:
    """Compare an estimate with a dry run of llama.cpp's quantizer, which writes nothing."""
    numbers = {type_.name.partition("_")[2]: type_ for type_ in LlamaFileType}
    backend.init()
    params = llama.llama_model_quantize_default_params()
    params.ftype, params.dry_run, params.allow_requantize = int(numbers[name]), True, True
    assert not llama.llama_model_quantize(bytes(path), b"nowhere.gguf", ctypes.byref(params))
    [line] = [line for line in log_lines()[-5:] if "quant size" in line]
    real = re.search(r"= +([\d.]+) MiB \(([\d.]+) BPW\)", line)
    assert real
    estimate = as_preset(read_gguf(path), name)
    n_bytes = sum(tensor.n_bytes for tensor in estimate.tensors.values())
    assert n_bytes / 2**20 == pytest.approx(float(real[1]), abs=ROUNDED)


def test_types_that_are_newer_than_the_package_are_kept() -> None:
    tensor = Tensor("position_embd.weight", (64, 4), tensor_type(42), 0, 72)
    file = replace(FILE, tensors={**FILE.tensors, tensor.name: tensor})
    assert as_preset(file, "Q4_0").tensors[tensor.name].type.name == "Q2_0"


def test_a_size_without_a_unit_is_asked_for_again(reellama: Reellama) -> None:
    result = reellama("gguf", "fit", "mini-llm", "--vram", "12")
    assert result.status == 2 and "12 is 12 bytes; write it as 12GiB" in result.err


def test_a_mixture_that_is_not_known_is_named() -> None:
    with pytest.raises(ReellamaError, match="no estimate for the type Q9_K; there is F32, F16"):
        as_preset(FILE, "Q9_K")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("12GiB", 12 << 30),
        ("12 gib", 12 << 30),
        ("12G", 12 << 30),
        ("8GB", 8 * 10**9),
        ("8000MiB", 8000 << 20),
        ("0.5TiB", 1 << 39),
        ("1000", 1000),
        ("100B", 100),
    ],
)
def test_sizes_are_written_as_people_do(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1GiB", "12PiB", "12 i", "1e9", "much", "9" * 99, "٣"]
)
def test_what_is_no_size_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ReellamaError, match="is not a size; write it as 12GiB") as caught:
        parse_size(text)
    assert len(str(caught.value)) < 120


def test_the_command_plans_for_a_gpu_that_is_not_there(reellama: Reellama) -> None:
    result = reellama("gguf", "fit", "mini-llm", "--vram", "600MiB")
    assert (result.status, result.err) == (0, "")
    n_layers = offload.count_fitting_layers(FILE, 4096, 600 << 20)
    longest = offload.max_context(FILE, 600 << 20)
    assert 0 < n_layers < 31
    assert f"{n_layers} of 31 layers fit into 600.0 MiB" in result.out
    assert f"With a context of {longest:,} all would fit." in result.out
    rows = [line.split() for line in result.out.splitlines()]
    assert ["Q4_K_M", "100.6", "MiB", "6.17", "15", "of", "31", "512"] in rows
    assert ["q8_0", "47.8", "MiB", "22", "of", "31", "1,536"] in rows
    assert "estimated" in result.out


def test_the_plan_comes_as_json_too(reellama: Reellama) -> None:
    arguments = ("--vram", "1GiB", "--ctx", "8192", "--type-k", "q8_0", "--type-v", "q8_0")
    found = json.loads(reellama("gguf", "fit", "mini-llm", *arguments, "--json").out)
    plan = offload.plan_offload(FILE, 8192, GIB, "q8_0", "q8_0")
    assert (found["n_gpu_layers"], found["n_gpu_layers_all"]) == (31, 31)
    assert (found["kv_bytes"], found["max_n_ctx"]) == (plan.kv_bytes, 8192)
    assert [row["type"] for row in found["by_kv_type"]] == ["f16", "q8_0", "q4_0"]
    q4_k_m = next(row for row in found["estimates_by_type"] if row["type"] == "Q4_K_M")
    assert q4_k_m["bits_per_weight"] == pytest.approx(6.17, abs=0.01)


def test_a_gpu_that_is_there_is_asked_what_is_free(
    reellama: Reellama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "devices", lambda: [Device("CUDA0", "a GPU", 4 * GIB, 8 * GIB)])
    result = reellama("gguf", "fit", "mini-llm")
    assert "All 31 layers fit into 4.0 GiB" in result.out


def test_without_a_gpu_it_asks_how_much_to_plan_for(
    reellama: Reellama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "devices", list)
    result = reellama("gguf", "fit", "mini-llm")
    assert (result.status, result.out, result.err.count("\n")) == (1, "", 1)
    assert "such as --vram 12GiB" in result.err


def test_what_is_no_language_model_is_not_planned(reellama: Reellama, tmp_path: Path) -> None:
    (tmp_path / "empty.gguf").write_bytes(b"GGUF\3" + bytes(19))
    result = reellama("gguf", "fit", tmp_path / "empty.gguf", "--vram", "1GiB")
    assert (result.status, result.out) == (1, "")
    assert "is not a language model" in result.err
