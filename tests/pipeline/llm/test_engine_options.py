"""Context options: what they do, and that a wrong one is said in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.runtime.context_settings import KV_TYPES
from reellama.gguf_tools.threads import default_threads
from reellama.pipeline.llm.engine import Engine, Text

pytestmark = pytest.mark.numeric

PROMPT = [Text("<|im_start|>user\nWhat is the capital of France?<|im_end|>\n", True)]


def logits(path: Path, **options: Any) -> np.ndarray:
    with Engine(path, n_ctx=256, n_threads=1, **options) as engine:
        return engine.logits_all(PROMPT)


@pytest.mark.parametrize("options", [{"n_batch": 3}, {"n_ubatch": 3}], ids=str)
def test_the_batch_size_changes_nothing_but_rounding(
    tiny_llama: Path, options: dict[str, int]
) -> None:
    exact: dict[str, Any] = {"type_k": "f32", "type_v": "f32", "flash_attn": "off"}
    expected = logits(tiny_llama, **exact)
    np.testing.assert_allclose(logits(tiny_llama, **exact, **options), expected, atol=1e-4)


@pytest.mark.parametrize("name", KV_TYPES)
def test_every_kv_type_works(smollm2: Path, name: str) -> None:
    exact = logits(smollm2, type_k="f32", type_v="f32").ravel()
    found = logits(smollm2, type_k=name, type_v=name).ravel()
    # Of halves and q8_0 0.9994 and more, of four and five bits 0.992 and more, whatever the
    # kernels: for AVX512, AVX2 and plain x86-64.
    alike = np.corrcoef(exact, found)[0, 1]
    assert alike > (0.998 if name in ("f32", "f16", "bf16", "q8_0") else 0.97)


def test_flash_attention_changes_nothing_but_rounding(tiny_llama: Path) -> None:
    on, off = logits(tiny_llama, flash_attn="on"), logits(tiny_llama, flash_attn="off")
    np.testing.assert_allclose(on, off, atol=2e-2)


def test_threads_default_to_the_cores_that_may_be_used(tiny_llama: Path) -> None:
    assert 1 <= default_threads() <= 1024
    with Engine(tiny_llama, n_ctx=256) as engine:
        assert list(engine.generate([Text("a")], max_tokens=3))


def test_the_context_is_as_long_as_asked_for(tiny_llama: Path) -> None:
    with Engine(tiny_llama, n_ctx=100) as engine:
        assert engine.n_ctx == 100
    with Engine(tiny_llama, n_ctx=0) as engine:
        assert engine.n_ctx == 4096  # what the file says that the model was trained for


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"type_k": "q9"}, "type_k cannot be 'q9': choose one of f32, f16"),
        ({"type_v": "q9"}, "type_v cannot be 'q9'"),
        ({"flash_attn": "maybe"}, "flash_attn cannot be 'maybe': choose one of auto"),
        ({"type_v": "q8_0", "flash_attn": "off"}, "type_v q8_0 needs flash attention"),
        ({"type_k": "q8_0"}, "could not make a context"),  # heads of 16 do not fill its blocks
        ({"n_ctx": 2_000_000_000}, r"2000000000 positions of context need \d+\.\d GB"),
        ({"n_ctx": -1}, "n_ctx is -1"),
        ({"n_batch": 0}, "n_batch is 0"),
        ({"n_threads": -2}, "n_threads is -2"),
    ],
)
def test_a_wrong_option_is_one_clear_line(
    tiny_llama: Path, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ReellamaError, match=complaint) as caught:
        Engine(tiny_llama, **{"n_ctx": 256, **options})
    assert "\n" not in str(caught.value)


def test_a_missing_model_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ReellamaError, match=r"absent\.gguf") as caught:
        Engine(tmp_path / "absent.gguf")
    assert "\n" not in str(caught.value)
