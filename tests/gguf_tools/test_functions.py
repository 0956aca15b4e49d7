"""What a script can import from `gguf_tools` itself."""

from pathlib import Path

import pytest

from reellama import gguf_tools


def test_models_are_quantized_and_measured_in_a_script(tiny_llama: Path, tmp_path: Path) -> None:
    from reellama.gguf_tools import bench, perplexity, quantize

    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 20)
    [made] = quantize(tiny_llama, "Q8_0", tmp_path / "q8.gguf")
    assert made.type == "Q8_0"
    [result] = bench([made.path], ["tg2"], 1, n_threads=[1])
    assert result.test == "tg2" and result.avg_ts > 0
    measured = perplexity(made.path, text, reference=tiny_llama, n_ctx=64, n_threads=1)
    assert measured.divergence.kl.value < 0.01


@pytest.mark.parametrize("name", gguf_tools.FUNCTIONS)
def test_every_name_is_a_function_with_a_description(name: str) -> None:
    assert getattr(gguf_tools, name).__doc__


def test_other_names_are_not_there() -> None:
    assert not hasattr(gguf_tools, "dequantize_everything")
