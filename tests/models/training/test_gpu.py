"""What only a GPU can show. Without one these tests are skipped, and say so."""

from pathlib import Path

import numpy as np
import pytest

from reellama.gguf_tools import bench
from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.memory.offload import count_fitting_layers
from reellama.gguf_tools.runtime import backend
from reellama.pipeline.llm.engine import Engine, Text

pytestmark = pytest.mark.skipif(
    not backend.supports_gpu_offload(),
    reason="llama.cpp finds no GPU here: offloading was not tested",
)

TEXT = "The tide goes out twice a day, and the boats in the harbour lie on their sides until then."


@pytest.mark.parametrize("layers", [1, 12, "all"])
def test_layers_on_the_gpu_predict_what_the_processor_does(smollm2: Path, layers: int) -> None:
    found = []
    for n_gpu_layers in (0, layers):
        with Engine(smollm2, n_ctx=256, n_gpu_layers=n_gpu_layers) as engine:
            found.append(engine.logits_all([Text(TEXT)]))
    processor, gpu = found
    assert (processor.argmax(axis=1) == gpu.argmax(axis=1)).mean() > 0.9
    assert np.abs(processor - gpu).mean() < 0.2


def test_auto_takes_what_fits(smollm2: Path) -> None:
    free = sum(gpu.free_bytes for gpu in backend.devices())
    with backend.load_model(smollm2, n_gpu_layers="auto", n_ctx=512) as model:
        assert model.n_gpu_layers == count_fitting_layers(read_gguf(smollm2), 512, free) > 0


def test_bench_says_what_memory_a_model_takes_on_the_gpu(smollm2: Path) -> None:
    [result] = bench([smollm2], ["pp32"], 1, n_gpu_layers=["all"])
    assert result.vram is not None
    assert result.vram > 0.8 * smollm2.stat().st_size
