"""Train one phase: AdamW with warm-up and cosine decay, resumable from checkpoints.

The clips, the dropout and the questions of a step depend on (seed, step) alone. So a run that
resumes from a checkpoint takes the same steps as one that was never stopped.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.precision import autocast
from reellama.models.training import distributed

Loss = Callable[[int, np.random.Generator], Tensor]  # (number of the forward pass, rng) -> loss
Validate = Callable[[], dict[str, float]]  # -> figures by name

MAX_GRADIENT_NORM = 1.0  # larger gradients are clipped


@dataclass(frozen=True)
class TrainerConfig:
    """The hyperparameters of a phase.

    Attributes:
        steps: of the optimizer; 0 to skip the phase.
        batch: clips in a forward pass.
        accumulate: forward passes in a step.
        learning_rate: at its peak.
        weight_decay: of weights with two dimensions or more.
        warmup: share of the steps in which the learning rate rises.
        checkpoint_every: steps between checkpoints, and between validations.
        averaged: number of last checkpoints whose weights are averaged at the end (Izmailov et al.,
            2018, "Averaging weights leads to wider optima"); 1 for no average.
        seconds_per_step: measured duration of a step, for estimates; 0 if it was not measured.
    """

    steps: int
    batch: int = 32
    accumulate: int = 1
    learning_rate: float = 5e-4
    weight_decay: float = 0.05
    warmup: float = 0.05
    checkpoint_every: int = 100
    averaged: int = 1
    seconds_per_step: float = 0.0

    def __post_init__(self) -> None:
        at_least_1 = ("batch", "accumulate", "checkpoint_every", "averaged")
        for name in ("steps", *at_least_1, "seconds_per_step"):
            minimum, value = int(name in at_least_1), getattr(self, name)
            if value < minimum:
                raise ReellamaError(f"{name} must be {minimum} or more, not {value}")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of samples of each sort in a forward pass."""
        return (self.batch,)

    @property
    def averaged_steps(self) -> list[int]:
        """The steps whose weights are averaged; empty for no average."""
        steps = [*range(self.checkpoint_every, self.steps, self.checkpoint_every), self.steps]
        return steps[-self.averaged :] if self.averaged > 1 else []


def format_minutes(seconds: float) -> str:
    """Seconds as minutes and seconds: "3:07"."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def batch_rows(step: int, batch: int, count: int, seed: int) -> list[int]:
    """The clips of a step, out of `count`: each once an epoch, in an order by seed and epoch."""
    rows: list[int] = []
    position = step * batch
    while len(rows) < batch:
        epoch, offset = divmod(position + len(rows), count)
        order = np.random.default_rng([seed, epoch]).permutation(count)
        rows += order[offset : offset + batch - len(rows)].tolist()
    return rows


class Trainer:
    """Trains the parameters of a module that require gradients.

    It resumes from a checkpoint in `folder` if there is one.

    Args:
        name: of the phase.
        module: what to train.
        config: the hyperparameters.
        folder: for `NAME.pt` (the last checkpoint) and `log.jsonl` (a line for each report).
        seed: of all random numbers.
        report: receives lines of progress.

    Attributes:
        step: number of the next step.
        seconds: spent in steps, over all runs.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        config: TrainerConfig,
        folder: Path,
        *,
        seed: int = 0,
        report: Callable[[str], None] = print,
    ) -> None:
        self.name = name
        self.module = module
        self.config = config
        self.folder = folder
        self.seed = seed
        self.report = report
        self.step = 0
        self.seconds = 0.0
        self._averaged: list[dict[str, Tensor]] = []  # the weights of `averaged_steps` so far
        self.device = next(module.parameters()).device
        trained = [p for p in module.parameters() if p.requires_grad]
        decay = [p for p in trained if p.ndim > 1]
        no_decay = [p for p in trained if p.ndim <= 1]  # biases and norms
        self.optimizer = torch.optim.AdamW(
            [{"params": decay, "weight_decay": config.weight_decay}, {"params": no_decay}],
            lr=config.learning_rate,
            weight_decay=0.0,
            betas=(0.9, 0.98),
        )
        self._resume()

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{self.name}.pt"

    def _resume(self) -> None:
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, weights_only=True, map_location=self.device)
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        self._averaged = state.get("averaged", [])
        self.report(f"{self.name}: going on at step {self.step}")

    def save(self) -> None:
        """Write the checkpoint, atomically."""
        state = {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "averaged": self._averaged,
        }
        part = self.checkpoint.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, self.checkpoint)

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step: linear warm-up, then half a cosine down to zero."""
        rising = max(1, round(self.config.warmup * self.config.steps))
        if step < rising:
            return self.config.learning_rate * (step + 1) / rising
        done = (step - rising) / max(1, self.config.steps - rising)
        return self.config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def run(self, loss: Loss, validate: Validate | None = None) -> None:
        """Take the steps that are left.

        validate: called every `config.checkpoint_every` steps and at the end, on rank 0. Its
        figures are logged.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        recent: list[float] = []
        while self.step < self.config.steps:
            started = time.perf_counter()
            recent.append(self._take_step(loss))
            self.step += 1
            self.seconds += time.perf_counter() - started
            last = self.step == self.config.steps
            if self.step in self.config.averaged_steps:
                weights = self.module.state_dict()
                self._averaged.append({name: value.clone() for name, value in weights.items()})
            if distributed.rank():
                continue
            if self.step % 10 == 0 or last:
                self._log({"loss": float(np.mean(recent[-10:]))})
            if self.step % self.config.checkpoint_every == 0 or last:
                self.save()
                if validate:
                    self._log(self._validate(validate))
        if self._averaged:
            self.module.load_state_dict(_mean(self._averaged))

    def _take_step(self, loss: Loss) -> float:
        """One step of the optimizer; returns the mean loss of its forward passes."""
        self.module.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate_at(self.step)
        total = 0.0
        for part in range(self.config.accumulate):
            number = self.step * self.config.accumulate + part
            torch.manual_seed(self.seed * 1_000_003 + number + 7919 * distributed.rank())
            with autocast(self.device):
                value = loss(number, np.random.default_rng(self._rng_seed(number)))
            (value / self.config.accumulate).backward()
            total += value.item() / self.config.accumulate
        distributed.average_gradients(self.module.parameters())
        nn.utils.clip_grad_norm_(self.module.parameters(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total

    def _rng_seed(self, number: int) -> list[int]:
        """The seed of a forward pass's random numbers, which differs between ranks."""
        rank = [distributed.rank()] if distributed.rank() else []
        return [self.seed, number, *rank]

    def _validate(self, validate: Validate) -> dict[str, float]:
        self.module.eval()
        with torch.no_grad():
            return validate()

    def _log(self, figures: dict[str, float]) -> None:
        left = self.seconds / self.step * (self.config.steps - self.step)
        values = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
        progress = f"step {self.step}/{self.config.steps}"
        self.report(f"{self.name}: {progress}, {values}, {format_minutes(left)} left")
        line = {"stage": self.name, "step": self.step, "seconds": round(self.seconds, 1), **figures}
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")


def _mean(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of state dicts; integer tensors are those of the last one."""
    return {
        name: torch.stack([state[name] for state in states]).mean(0)
        if last.is_floating_point()
        else last
        for name, last in states[-1].items()
    }
