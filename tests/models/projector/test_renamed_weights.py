"""Weights load under the names that older files have for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from reellama.models.bundle import Bundle
from reellama.models.projector.config import ProjectorConfig
from reellama.models.projector.temporal_projector import POOLERS, Projector
from reellama.models.save_bundle import save_bundle

WEIGHTS = "projector.safetensors"


def small(kind: str) -> Projector:
    return Projector(
        ProjectorConfig(
            kind, tokens=4, n_embd=16, channels=8, cells=4, words=12, width=8, layers=2, heads=2,
            encoder=1,
        )
    )  # fmt: skip


def old_name(module: nn.Module, key: str) -> str:
    """A weight's name as older files have it, in a module and all that is in it."""
    name, dot, rest = key.partition(".")
    old = {new: old for old, new in getattr(module, "old_names", {}).items()}.get(name, name)
    return old + dot + (old_name(getattr(module, name), rest) if dot else "")


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("kind", POOLERS)
def test_old_and_new_names_give_the_same_weights(kind: str, wrapped: bool) -> None:
    """In a module of others too, as a checkpoint of training holds them."""
    pair = [nn.ModuleDict({"projector": small(kind)}) if wrapped else small(kind) for _ in range(2)]
    saved, loaded = pair
    weights = {old_name(saved, name): weight for name, weight in saved.state_dict().items()}
    assert weights.keys() != saved.state_dict().keys()
    loaded.load_state_dict(weights)
    for name, weight in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name


def test_names_that_nobody_knows_are_refused() -> None:
    projector = small("resampler")
    with pytest.raises(RuntimeError, match="unknown"):
        projector.load_state_dict({**projector.state_dict(), "pooler.unknown": torch.zeros(1)})


def test_mini_has_old_names_and_is_saved_with_new_ones(tmp_path: Path) -> None:
    mini = Bundle.load("mini")
    assert "body.blocks.0.look.out.weight" in load_file(mini.folder / WEIGHTS)
    saved = save_bundle(tmp_path, mini.config, mini.projector)
    assert "pooler.blocks.0.cross_attention.out.weight" in load_file(tmp_path / WEIGHTS)
    weights = saved.projector.state_dict()
    assert weights.keys() == mini.projector.state_dict().keys()
    assert all(torch.equal(weights[k], weight) for k, weight in mini.projector.state_dict().items())
