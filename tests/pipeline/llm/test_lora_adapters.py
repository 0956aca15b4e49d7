"""GGUF LoRA adapters: the model behaves as if scale * alpha / rank * B @ A were in its weights."""

from pathlib import Path

import numpy as np
import pytest

from reellama.gguf_tools.errors import ReellamaError
from tests.helpers import tiny_model
from tests.helpers.lora_adapters import ALPHA, NAMES, RANK, logits, pairs, write_adapter

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("scale", [1.0, 0.5, -1.0])
def test_an_adapter_acts_like_the_merged_weights(
    tiny_llama: Path, tmp_path: Path, scale: float
) -> None:
    weights = pairs(seed=1)
    adapter = write_adapter(tmp_path / "adapter.gguf", weights)
    changes = {name: np.float32(scale * ALPHA / RANK) * (b @ a) for name, (a, b) in weights.items()}
    merged = logits(tiny_model.write(tmp_path / "merged.gguf", changes=changes))
    adapted = logits(tiny_llama, (adapter, scale))
    np.testing.assert_allclose(adapted, merged, atol=5e-3)
    assert np.abs(adapted - logits(tiny_llama)).max() > 0.5  # it changes something


def test_several_adapters_add_up(tiny_llama: Path, tmp_path: Path) -> None:
    one, other = pairs(seed=1), pairs(seed=2)
    paths = [
        (write_adapter(tmp_path / "one.gguf", one), 0.5),
        (write_adapter(tmp_path / "other.gguf", other), 0.25),
    ]
    changes = {
        name: np.float32(ALPHA / RANK)
        * (0.5 * one[name][1] @ one[name][0] + 0.25 * other[name][1] @ other[name][0])
        for name in NAMES
    }
    merged = logits(tiny_model.write(tmp_path / "merged.gguf", changes=changes))
    np.testing.assert_allclose(logits(tiny_llama, *paths), merged, atol=5e-3)


def test_an_adapter_of_zeros_changes_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    zeros = {name: (a, np.zeros_like(b)) for name, (a, b) in pairs(seed=1).items()}
    adapter = write_adapter(tmp_path / "zeros.gguf", zeros)
    np.testing.assert_array_equal(logits(tiny_llama, (adapter, 1.0)), logits(tiny_llama))


def test_an_adapter_of_another_model_is_refused(smollm2: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter.gguf", pairs(seed=1))
    with pytest.raises(ReellamaError, match=r"adapter\.gguf is not a GGUF LoRA adapter") as caught:
        logits(smollm2, (adapter, 1.0))
    assert "\n" not in str(caught.value)


def test_an_adapter_of_another_architecture_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter.gguf", pairs(seed=1), arch="mamba")
    with pytest.raises(ReellamaError, match="is not a GGUF LoRA adapter for"):
        logits(tiny_llama, (adapter, 1.0))


def test_a_file_that_is_no_adapter_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    text = tmp_path / "adapter.gguf"
    text.write_text("not a GGUF file")
    for path in (text, tiny_llama):
        with pytest.raises(ReellamaError, match="is not a GGUF LoRA adapter for"):
            logits(tiny_llama, (path, 1.0))
    with pytest.raises(ReellamaError, match=r"absent\.gguf: there is no such LoRA adapter"):
        logits(tiny_llama, (tmp_path / "absent.gguf", 1.0))
