"""The phase `align`: the projector's soft tokens learn to be the words of the slots.

It trains on synthetic clips without the LLM, over a frozen tower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from reellama.models.precision import autocast
from reellama.models.projector import slots
from reellama.models.projector.temporal_projector import Projector
from reellama.models.synthetic.dataset import SyntheticClips
from reellama.models.training import distributed
from reellama.models.training.batches import IGNORED, ClipBatch, clip_batches
from reellama.models.training.collate import ConversationCollator
from reellama.models.training.objectives import word_loss
from reellama.models.training.phases.phase_config import ClipPhaseConfig, LoraConfig
from reellama.models.training.trainer import Loss, Trainer
from reellama.models.vision.encoder import Tower
from reellama.models.vision.frame_pixels import BATCH_FRAMES

ReportLine = Callable[[str], None]
# Gets the pooled vectors of each batch of a validation.
OnBatch = Callable[[Tensor, ClipBatch], None]

TOWER_BATCH = 1024  # frames a call of the tower on a GPU
# Number of each phase's first clip; no two phases draw the same clips.
FIRST_SAMPLE = {"align": 0, "joint": 100_000_000, "text_only": 200_000_000}
VALIDATION_BATCH = 64  # clips


def device() -> torch.device:
    """This process's GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class AlignmentPhase:
    """The phase `align`, and the base of the phases on synthetic clips.

    A run continues from its last checkpoint, on a GPU if there is one.

    Args:
        clips, validation: the synthetic clips of training and of validation.
        tower: encodes the frames.
        collator: makes batches of samples.
        projector: is trained.
        config: weights of the losses.
        folder: for checkpoints and the log.
        workers: number of processes that draw clips; None for `distributed.workers`.
    """

    def __init__(
        self,
        clips: SyntheticClips,
        validation: SyntheticClips,
        tower: Tower,
        collator: ConversationCollator,
        projector: Projector,
        config: LoraConfig,
        folder: Path,
        *,
        seed: int = 0,
        workers: int | None = None,
        report: ReportLine = print,
    ) -> None:
        self.clips, self.stills = clips, clips.as_stills()
        self.validation, self.collator = validation, collator
        self.config, self.folder, self.seed, self.report = config, folder, seed, report
        self.workers = distributed.workers() if workers is None else workers
        self.device = device()
        self.tower = tower.to(self.device)
        self.projector = projector.to(self.device)
        self.trained: nn.Module = self.projector
        self._batches: Iterator[tuple[ClipBatch, ...]] = iter(())

    def align(self, phase: ClipPhaseConfig) -> float:
        """Train the soft tokens to be the words of the slots; returns seconds."""

        def loss(number: int, rng: np.random.Generator) -> Tensor:
            return torch.stack([self.slot_loss(batch)[0] for batch in next(self._batches)]).mean()

        return self.run("align", self.projector, phase, loss)

    def run(self, name: str, module: nn.Module, phase: ClipPhaseConfig, loss: Loss) -> float:
        """Train `module` in the phase `name`, whose `loss` takes the next of `_batches`; returns
        seconds."""
        trainer = Trainer(name, module, phase, self.folder, seed=self.seed, report=self.report)
        self._batches = self._clip_batches(name, phase, trainer.step)
        trainer.run(loss, lambda: self.validate(name == "joint", phase.still_batch > 0))
        return trainer.seconds

    def _clip_batches(
        self, name: str, phase: ClipPhaseConfig, step: int
    ) -> Iterator[tuple[ClipBatch, ...]]:
        """Batches of clips, and of stills if the phase has them, from `step` on.

        Stills have batches of their own: padded to a clip's frames, a still would cost as much as a
        clip.
        """
        first, parts = FIRST_SAMPLE[name], []
        for clips, size in ((self.clips, phase.batch), (self.stills, phase.still_batch)):
            if size:
                weighted = clips.with_sampling_weights(phase.sampling_weights)
                begin, end = (first + at * size * phase.accumulate for at in (step, phase.steps))
                parts.append(clip_batches(weighted, self.collator, begin, end, size, self.workers))
        return zip(*parts, strict=True)

    def features(self, batch: ClipBatch) -> Tensor:
        """The tower's features of a batch, `[B, T, cells, channels]`."""
        frames = batch.frames.to(self.device, non_blocking=True)
        count, longest = frames.shape[:2]
        flat = frames.flatten(0, 1)
        size = TOWER_BATCH if self.device.type == "cuda" else BATCH_FRAMES
        with torch.no_grad():
            grids = [self.tower.cells(part) for part in flat.split(size)]
        return torch.cat(grids).unflatten(0, (count, longest))

    def hidden(self, batch: ClipBatch) -> Tensor:
        """The pooled vectors of a batch, `[B, tokens, width]`."""
        return self.projector.hidden(
            self.features(batch), batch.times.to(self.device), batch.mask.to(self.device)
        )

    def slot_loss(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the slots' words; and the pooled vectors `[B, tokens, width]`, for
        further losses."""
        hidden = self.hidden(batch)
        logits = self.projector.word_mixture.logits(hidden).float()
        targets = batch.targets.to(self.device)
        weights = torch.ones(targets.shape[1], device=self.device)
        weights[: slots.N_COUNT_TOKENS] = self.config.count_weight
        spans = slots.slot_spans()
        for start, end in (spans[slots.MOTION_SLOT], spans[slots.THEN_SLOT]):
            weights[start:end] = self.config.motion_weight
        return word_loss(logits, targets, weights), hidden

    @torch.no_grad()
    def validate(self, answers: bool, stills: bool) -> dict[str, float]:
        """Validation figures by name: on clips, with `stills` also on stills, and with `answers`
        also of the LLM's answers."""
        self.trained.eval()  # the trainer does so only for the modules that the phase trains
        figures = self.validation_figures(self.validation, answers)
        if stills:
            single = self.validation_figures(self.validation.as_stills(), answers)
            figures |= {f"{name} of stills": value for name, value in single.items()}
        return figures

    def validation_figures(self, clips: SyntheticClips, answers: bool) -> dict[str, float]:
        """Figures on one data set; subclasses add those of answers."""
        return self.slot_accuracy(clips)

    def slot_accuracy(
        self, clips: SyntheticClips, on_batch: OnBatch | None = None
    ) -> dict[str, float]:
        """Shares of filled slots with all words right: of all slots, of names, and of motions."""
        counts: list[np.ndarray] = []
        size, workers, count = VALIDATION_BATCH, min(self.workers, 8), self.config.validation_clips
        for batch in clip_batches(clips, self.collator, 0, count, size, workers, shared=False):
            with autocast(self.device):
                hidden = self.hidden(batch)
                predicted = self.projector.word_mixture.logits(hidden).argmax(-1).cpu()
                counts.append(_correct_slots(predicted, batch.targets))
                if on_batch:
                    on_batch(hidden, batch)
        correct, filled = np.sum(counts, axis=0)
        shares = correct / np.maximum(1, filled)
        return {
            "slots": float(correct.sum() / filled.sum()),
            "names": float(shares[slots.NAME_SLOT]),
            "motions": float(shares[slots.MOTION_SLOT]),
        }


def _correct_slots(predicted: Tensor, targets: Tensor) -> np.ndarray:
    """For each slot, the number of clips in which it is filled and all of its words are right, and
    in which it is filled: `[2, slots]`. predicted, targets: words `[B, tokens]`."""
    counts = []
    for start, end in slots.slot_spans():
        words = targets[:, start:end]
        filled = (words != 0).any(1)
        correct = ((predicted[:, start:end] == words) | (words == IGNORED)).all(1)
        counts.append(((correct & filled).sum(), filled.sum()))
    return np.array(counts).T
