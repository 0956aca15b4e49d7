"""Logits of a converted model, by transformers and by llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reellama.pipeline.llm.engine import Engine, Text

TEXT = "When the wind rose over the bay, he wrote down 1987 notes; naïve 中文 don't   return a"


def both_logits(
    model: Any, tokenizer: Any, path: Path, lora: Sequence[tuple[Path, float]] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Logits for every token of TEXT, by transformers and by llama.cpp with a cache in float32."""
    ids = tokenizer(TEXT)["input_ids"]
    with torch.inference_mode():
        theirs = model(torch.tensor([ids])).logits[0].numpy()
    exact: dict[str, Any] = {"type_k": "f32", "type_v": "f32", "flash_attn": "off"}
    with Engine(path, n_ctx=256, n_threads=1, lora=lora, **exact) as e:
        return theirs, e.logits_all([Text(TEXT)])


class HalvedGELU(torch.nn.Module):
    """llama.cpp looks Gemma's activation up in a table of float16."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = torch.nn.functional.gelu(x.half().float(), approximate="tanh").half().float()
        return torch.where(x.abs() < 10, found, x.clamp(min=0))


def halve_gelu(model: torch.nn.Module) -> bool:
    """Put HalvedGELU in the place of a model's GELU; returns whether it has one."""
    found = [
        (module, name)
        for module in model.modules()
        for name, child in module.named_children()
        if "GELU" in type(child).__name__
    ]
    for module, name in found:
        setattr(module, name, HalvedGELU())
    return bool(found)
