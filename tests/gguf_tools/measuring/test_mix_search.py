"""A mix for a size: it fits, it is what the plan says, and it is closer than uniform types."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.measuring.mix_search import MixSettings, plan_mix
from reellama.gguf_tools.measuring.perplexity import measure_perplexity
from reellama.gguf_tools.quantization.quantize import quantize
from tests.conftest import Result
from tests.helpers import tiny_model

SMALL = ("--threads", "1", "--chunks", "1")


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model one of whose matrices has far larger numbers than the others: it is sensitive."""
    rng = np.random.default_rng(5)
    shape = tiny_model.weights("llama")["blk.0.attn_v.weight"].shape
    changes = {"blk.0.attn_v.weight": rng.normal(0, 3.0, shape).astype(np.float32)}
    folder = tmp_path_factory.mktemp("uneven")
    whole = tiny_model.write(folder / "whole.gguf", changes=changes)
    (made,) = quantize(whole, "F16", folder / "model-F16.gguf")
    return made.path


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("Eight maids a-milking, seven swans a-swimming. " * 30)
    return path


@pytest.mark.numeric
def test_a_mix_is_closer_to_the_source_than_one_type_of_its_size(
    uneven: Path, text: Path, tmp_path: Path
) -> None:
    (uniform,) = quantize(uneven, "Q4_1", tmp_path / "uniform.gguf", pure=True)
    settings = MixSettings(text, n_ctx=256, n_chunks=2, n_threads=1)
    plan = plan_mix(uneven, uniform.n_bytes, settings=settings, work=tmp_path)
    (mixed,) = quantize(
        uneven, plan.base, tmp_path / "mixed.gguf", tensor_types=plan.tensor_types()
    )
    assert mixed.n_bytes <= uniform.n_bytes
    assert {t.name: t.type.name for t in read_gguf(mixed.path).tensors.values()}.items() >= (
        plan.types.items()
    )
    kl = []
    for made in (mixed, uniform):
        found = measure_perplexity(
            made.path, text, reference=uneven, n_ctx=256, n_chunks=2, n_threads=1
        )
        assert found.divergence is not None
        kl.append(found.divergence.kl.value)
    assert kl[0] < kl[1]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".mix")] == []


def test_the_command_writes_a_plan_that_can_be_used_again(
    reellama: Callable[..., Result], uneven: Path, text: Path, tmp_path: Path
) -> None:
    out, again = tmp_path / "mix.gguf", tmp_path / "again.gguf"
    words = ("gguf", "quantize", uneven, *SMALL, "--text", text, "--target-bpw", "6", "-o", out)
    result = reellama(*words)
    assert result.status == 0
    assert re.search(r"mix\.types\.txt: the plan, .*; KL divergence about 0\.\d{4}", result.err)
    size = sum(t.n_elements for t in read_gguf(uneven).tensors.values()) * 6 / 8
    assert 0.9 * size < out.stat().st_size <= size
    base = re.findall(r"^(\w+) ", result.out)[0]
    plan = tmp_path / "mix.types.txt"
    repeated = ("gguf", "quantize", uneven, base, "--tensor-type-file", plan, "-o", again)
    assert reellama(*repeated).status == 0
    assert again.read_bytes() == out.read_bytes()
    refused = reellama(*words)
    assert refused.status == 1 and "mix.gguf exists" in refused.err


def test_a_size_that_no_mix_has_is_refused(uneven: Path, text: Path, tmp_path: Path) -> None:
    settings = MixSettings(text, n_ctx=256, n_chunks=1, n_threads=1)
    with pytest.raises(ReellamaError, match="at the least, more than"):
        plan_mix(uneven, 20_000, settings=settings, work=tmp_path)


@pytest.mark.parametrize(
    "words",
    [("--target-size", "1MiB", "Q4_0"), ("--target-size", "1MiB", "--target-bpw", "4"), ()],
)
def test_options_that_contradict_each_other_end_with_2(
    reellama: Callable[..., Result], uneven: Path, words: tuple[str, ...]
) -> None:
    assert reellama("gguf", "quantize", uneven, *words).status == 2
