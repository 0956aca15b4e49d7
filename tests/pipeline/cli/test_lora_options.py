"""`--lora FILE` and `--lora FILE=SCALE` mean the same wherever they are taken."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.quantization.quantize import quantize
from reellama.pipeline.cli.options import parse_adapters
from tests.conftest import Result
from tests.helpers.lora_adapters import logits, pairs, write_adapter

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of `tiny_llama`."""
    return write_adapter(tmp_path_factory.mktemp("adapter") / "style.gguf", pairs(seed=1))


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the small LLM that changes much of what it says."""
    a, b = np.random.default_rng(0).normal(0, 0.5, (2, 4, 576)).astype(np.float32)
    path = tmp_path_factory.mktemp("loud") / "loud.gguf"
    return write_adapter(path, {"blk.1.attn_q.weight": (a, b.T.copy())})


def test_a_file_alone_has_the_scale_one(adapter: Path) -> None:
    assert parse_adapters([str(adapter)]) == [(adapter, 1.0)]
    assert parse_adapters([f"{adapter}=0.5", f"{adapter}=-2"]) == [(adapter, 0.5), (adapter, -2.0)]
    assert parse_adapters(None) == []


def test_a_name_with_an_equals_sign_is_a_name(adapter: Path, tmp_path: Path) -> None:
    for name in ("rank=8.gguf", "rank=8"):
        odd = tmp_path / name
        odd.write_bytes(adapter.read_bytes())
        assert parse_adapters([str(odd), f"{odd}=0.5"]) == [(odd, 1.0), (odd, 0.5)]


def test_home_is_found(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(adapter.parent))
    assert parse_adapters(["~/style.gguf", "~/style.gguf=2"]) == [(adapter, 1.0), (adapter, 2.0)]


@pytest.mark.parametrize("scale", ["half", "", "nan", "inf", "1,5"])
def test_a_bad_scale_is_one_line(adapter: Path, scale: str) -> None:
    with pytest.raises(ReellamaError, match="is not a scale") as caught:
        parse_adapters([f"{adapter}={scale}"])
    assert f"{adapter}={scale}" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "=0.5", "gone.gguf", "gone.gguf=0.5", "."])
def test_what_is_no_file_is_no_adapter(text: str) -> None:
    with pytest.raises(ReellamaError, match="there is no such LoRA adapter") as caught:
        parse_adapters([text])
    assert f"--lora {text}" in str(caught.value)


def test_ask_takes_both_forms(
    reellama: Run, square_video: Path, small_bundle: Path, loud: Path
) -> None:
    def answer(*lora: str | Path) -> str:
        options = [f"--bundle={small_bundle}", "--threads=1", "--n-ctx=256", "--max-tokens=12"]
        options += [f"--lora={each}" for each in lora]
        result = reellama("ask", square_video, "What happens?", "--json", *options)
        assert result.status == 0, result.err
        return str(json.loads(result.out)["answer"])

    assert answer(loud) == answer(f"{loud}=1") != answer()
    assert answer(f"{loud}=0") == answer()


def test_perplexity_takes_both_forms(
    reellama: Run, tiny_llama: Path, adapter: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Adapters change what a model says. " * 20)

    def perplexity(*lora: str) -> float:
        options = ["--ctx", "64", "--chunks", "2", "--threads", "1", "--json"]
        options += [f"--lora={each}" for each in lora]
        result = reellama("gguf", "perplexity", tiny_llama, text, *options)
        assert result.status == 0, result.err
        return float(json.loads(result.out)["perplexity"]["value"])

    plain = perplexity()
    assert perplexity(str(adapter)) == perplexity(f"{adapter}=1.0") != plain
    assert perplexity(f"{adapter}=0") == pytest.approx(plain, rel=1e-6)


def test_quantize_takes_both_forms(
    reellama: Run, tiny_llama: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for lora in (str(adapter), f"{adapter}=1"):
        result = reellama("gguf", "quantize", tiny_llama, "F32", "--force", "--lora", lora)
        assert (result.status, result.err) == (0, "")
        merged = logits(tmp_path / "llama-style-F32.gguf")
        np.testing.assert_allclose(merged, logits(tiny_llama, (adapter, 1.0)), atol=5e-3)


@pytest.mark.parametrize("command", ["ask", "chat", "perplexity", "quantize", "dry run"])
def test_every_command_refuses_a_missing_adapter_in_one_line(
    reellama: Run, command: str, square_video: Path, small_bundle: Path, tiny_llama: Path
) -> None:
    commands: dict[str, list[str | Path]] = {
        "ask": ["ask", square_video, "What happens?", "--bundle", small_bundle],
        "chat": ["chat", "--bundle", small_bundle],
        "perplexity": ["gguf", "perplexity", tiny_llama],
        "quantize": ["gguf", "quantize", tiny_llama, "F16"],
        "dry run": ["gguf", "quantize", tiny_llama, "F16", "--dry-run"],
    }
    result = reellama(*commands[command], "--lora", "gone.gguf")
    assert (result.status, result.out) == (1, "")
    assert result.err == "reellama: --lora gone.gguf: there is no such LoRA adapter\n"


def test_a_dry_run_reads_the_adapter_as_a_real_one_does(
    tiny_llama: Path, smollm2: Path, adapter: Path, tmp_path: Path
) -> None:
    (planned,) = quantize(tiny_llama, "F16", tmp_path, loras=[(adapter, 1.0)], dry_run=True)
    assert planned.path.name == "llama-style-F16.gguf"
    for source, file, reason in (
        (tiny_llama, tmp_path / "gone.gguf", "cannot read"),
        (tiny_llama, tiny_llama, "is not a GGUF LoRA adapter"),
        (smollm2, adapter, "does not fit"),
    ):
        for dry_run in (True, False):
            with pytest.raises(ReellamaError, match=reason):
                quantize(source, "F16", tmp_path / "out", loras=[(file, 1.0)], dry_run=dry_run)
            assert not (tmp_path / "out").exists()
