"""Adapters that PyTorch trains: llama.cpp reads from the file what PyTorch computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import read_gguf
from reellama.models.training.frozen_llm import FrozenLLM
from reellama.models.training.lora import GGUF_NAMES, LoraAdapters
from reellama.pipeline.llm.engine import Engine, Text

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("layer", [*GGUF_NAMES.values()])
def test_an_adapter_gives_the_same_logits_in_llama_cpp_as_in_pytorch(
    layer: str, tiny_llama: Path, tmp_path: Path
) -> None:
    llm = FrozenLLM(tiny_llama)
    torch.manual_seed(0)
    lora = LoraAdapters(llm.model, rank=4, alpha=8.0)
    with torch.no_grad():
        for name, b in zip(lora.names, lora.b, strict=True):
            if layer in name:
                b.normal_(std=0.5)
    lora.save(tmp_path / "adapter.gguf", read_gguf(tiny_llama))
    text = "A red ball moves left."
    ids = torch.tensor([llm.tokenizer.encode(text, add_bos=llm.tokenizer.add_bos)])
    with torch.no_grad():
        wanted = llm.model(input_ids=ids).logits[0].numpy()
        with lora.disabled():
            bare = llm.model(input_ids=ids).logits[0].numpy()
    with Engine(tiny_llama, n_ctx=256, lora=[(tmp_path / "adapter.gguf", 1.0)]) as engine:
        found = engine.logits_all([Text(text)])
    change = np.abs(wanted - bare).max()
    assert np.abs(found - wanted).max() < 0.02 * change  # float16 in the adapter and the KV cache


def test_an_adapter_is_the_same_after_it_was_written_and_read(
    tiny_llama: Path, tmp_path: Path
) -> None:
    header = read_gguf(tiny_llama)
    written, other = (
        LoraAdapters(FrozenLLM(tiny_llama).model, rank=4, alpha=8.0) for _ in range(2)
    )
    with torch.no_grad():
        for a, b in zip(written.a, written.b, strict=True):
            a.copy_(a.half())  # what float16 can hold
            b.copy_(torch.randn_like(b).half())
    written.save(tmp_path / "adapter.gguf", header)
    other.load(tmp_path / "adapter.gguf", header)
    for ours, theirs in zip(written.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_an_adapter_of_another_rank_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    header = read_gguf(tiny_llama)
    LoraAdapters(FrozenLLM(tiny_llama).model, rank=4, alpha=8.0).save(
        tmp_path / "adapter.gguf", header
    )
    other = LoraAdapters(FrozenLLM(tiny_llama).model, rank=2, alpha=8.0)
    with pytest.raises(ReellamaError, match="not that of an adapter of rank 2"):
        other.load(tmp_path / "adapter.gguf", header)
