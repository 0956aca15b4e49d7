"""One stage of training: what is averaged at its end, and going on where it was stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from reellama.models.training.trainer import Trainer, TrainerConfig

CONFIG = TrainerConfig(steps=10, checkpoint_every=3, averaged=3, learning_rate=0.1)


class Stopped(Exception):
    pass


def trained(folder: Path, config: TrainerConfig, *stops: int) -> tuple[Tensor, list[Tensor]]:
    """The weight at the end, and before each step; each of `stops` is a kill at that step."""
    seen: dict[int, Tensor] = {}
    for stop in (*stops, None):
        torch.manual_seed(0)
        module = nn.Linear(3, 1)

        def loss(
            number: int,
            rng: np.random.Generator,
            module: nn.Linear = module,
            stop: int | None = stop,
        ) -> Tensor:
            if number == stop:
                raise Stopped
            seen[number] = module.weight.detach().clone()
            x = torch.from_numpy(rng.normal(size=(4, 3)).astype(np.float32))
            return (module(x) - x.sum(1, keepdim=True)).square().mean()

        trainer = Trainer("x", module, config, folder, report=lambda line: None)
        try:
            trainer.run(loss)
        except Stopped:
            continue
    return module.weight.detach(), [seen[number] for number in sorted(seen)]


def test_the_weights_of_the_last_checkpoints_are_averaged(tmp_path: Path) -> None:
    plain, before = trained(
        tmp_path / "plain", TrainerConfig(10, checkpoint_every=3, learning_rate=0.1)
    )
    mean, _ = trained(tmp_path / "mean", CONFIG)
    # Checkpoints are of steps 3, 6, 9 and 10; `before[6]` is the weight after six steps.
    torch.testing.assert_close(mean, (before[6] + before[9] + plain) / 3)
    assert not torch.equal(mean, plain)


def test_a_run_that_was_killed_averages_the_same(tmp_path: Path) -> None:
    whole, _ = trained(tmp_path / "whole", CONFIG)
    resumed, _ = trained(tmp_path / "resumed", CONFIG, 5, 8)
    assert torch.equal(whole, resumed)
    again, _ = trained(tmp_path / "resumed", CONFIG)  # nothing is left to do
    assert torch.equal(whole, again)
