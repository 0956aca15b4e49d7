"""Loading models with llama.cpp: quiet when all is well, one clear line when it is not."""

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from reellama.gguf_tools.errors import GGUFError, ReellamaError
from reellama.gguf_tools.memory.offload import count_fitting_layers
from reellama.gguf_tools.runtime import backend
from reellama.gguf_tools.runtime.backend import Device, load_model


def test_a_loaded_model_says_what_it_is(smollm2: Path) -> None:
    with load_model(smollm2) as model:
        assert (model.n_embd, model.n_layer, model.path) == (576, 30, smollm2)
        assert model.ptr
        assert model.vocab
        assert model.file.architecture == "llama"


def test_without_mmap_it_is_the_same_model(smollm2: Path) -> None:
    with load_model(smollm2, use_mmap=False) as model:
        assert (model.n_embd, model.n_layer) == (576, 30)


def test_a_closed_model_is_refused_and_not_used_after_it_was_freed(smollm2: Path) -> None:
    model = load_model(smollm2, vocab_only=True)
    model.close()
    model.close()
    for ask in (lambda: model.ptr, lambda: model.vocab, lambda: model.n_embd):
        with pytest.raises(ReellamaError, match="was closed"):
            ask()


def test_loading_prints_nothing_and_keeps_the_log(smollm2: Path) -> None:
    code = (
        "import sys; from reellama.gguf_tools.runtime import backend\n"
        "model = backend.load_model(sys.argv[1], vocab_only=True)\n"
        "assert any('llama_model_loader' in line for line in backend.log_lines())\n"
        "assert len(backend.log_lines()) <= backend.LOG_LINES\n"
    )  # ends without closing the model, which must be freed all the same
    result = subprocess.run([sys.executable, "-c", code, smollm2], capture_output=True, check=True)
    assert (result.stdout, result.stderr) == (b"", b"")


@pytest.mark.parametrize("name", ["missing.gguf", ".", "notes.gguf", "half.gguf"])
def test_bad_files_are_stopped_before_llama_cpp_sees_them(
    smollm2: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "notes.gguf").write_text("These are my notes.\n" * 50)
    with smollm2.open("rb") as file:
        (tmp_path / "half.gguf").write_bytes(file.read(4_000_000))
    with pytest.raises(GGUFError) as caught:
        load_model(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_llama_cpp_refuses_comes_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "future.gguf"
    writer = gguf.GGUFWriter(path, "an-architecture-of-the-future")
    writer.add_tensor("token_embd.weight", np.ones((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(GGUFError, match=r"cannot load .*unknown model architecture") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_no_memory_is_one_line(smollm2: Path) -> None:
    """A process that may not have the memory for the weights."""
    code = (
        "import resource, sys; from reellama.gguf_tools.format import reader\n"
        "from reellama.gguf_tools.runtime import backend\n"
        "from reellama.gguf_tools.errors import GGUFError\n"
        "backend.init(); reader.read_gguf(sys.argv[1]); backend.amx_decision()\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (80 << 20), resource.RLIM_INFINITY))\n"
        "for use_mmap in (True, False):\n"
        "    try: backend.load_model(sys.argv[1], use_mmap=use_mmap)\n"
        "    except GGUFError as error: sys.stdout.write(f'{error}\\n')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, smollm2], capture_output=True, text=True, check=True
    )
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith(f"not enough memory to load {smollm2} (0.10 GB); close other")


def test_auto_without_a_gpu_offloads_nothing(
    smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "devices", list)
    with load_model(smollm2, n_gpu_layers="auto", vocab_only=True) as model:
        assert model.n_gpu_layers == 0


def test_auto_offloads_what_fits_into_all_gpus(
    smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = [Device("CUDA0", "a GPU", 400 << 20, 1 << 30), Device("CUDA1", "", 300 << 20, 1 << 30)]
    monkeypatch.setattr(backend, "devices", lambda: gpus)
    with load_model(smollm2, n_gpu_layers="auto", n_ctx=2048, vocab_only=True) as model:
        assert model.n_gpu_layers == count_fitting_layers(model.file, 2048, 700 << 20) > 0


@pytest.mark.parametrize(("asked", "given"), [("all", -1), (-1, -1), (-7, -1), (5, 5)])
def test_all_and_negative_numbers_mean_every_layer(smollm2: Path, asked: int, given: int) -> None:
    with load_model(smollm2, n_gpu_layers=asked, vocab_only=True) as model:
        assert model.n_gpu_layers == given


def test_another_word_for_n_gpu_layers_is_refused(smollm2: Path) -> None:
    with pytest.raises(ReellamaError, match='a number, "auto" or "all"'):
        load_model(smollm2, n_gpu_layers="many")  # type: ignore[arg-type]  # that is the test


def test_the_gpus_are_listed_with_their_memory() -> None:
    gpus = backend.devices()
    assert bool(gpus) == backend.supports_gpu_offload()
    for gpu in gpus:
        assert gpu.name
        assert 0 <= gpu.free_bytes <= gpu.total_bytes
