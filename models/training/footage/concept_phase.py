"""The phase `concepts`: a head learns which words captions say, and free tokens to be these words.

A concept's target is the share of a video's captions that say it. No soft token of the resampler
has a word of its own: together they support a concept if any one of them does (noisy-OR), so that
they share the concepts among them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reellama.models.concepts.concept_tokens import ConceptTokens
from reellama.models.concepts.vocabulary import ConceptVocabulary
from reellama.models.training.footage.captioned_videos import FootageSet
from reellama.models.training.footage.footage_config import ConceptPhaseConfig
from reellama.models.training.trainer import Trainer

SAMPLED_CLIPS = 400  # of each set, for mean and deviation of the features
VALIDATION_BATCH = 32  # videos
MIN_POSITIVES = 3  # validation videos that must show a concept, for it to be scored


def concept_loss(logits: Tensor, shares: Tensor) -> Tensor:
    """Binary cross-entropy `[B, concepts]`, summed over concepts: the mean over videos."""
    return F.binary_cross_entropy_with_logits(logits, shares, reduction="none").sum(1).mean()


def noisy_or_logits(probabilities: Tensor) -> Tensor:
    """Logits `[B, concepts]` that any soft token is a concept's word, by noisy-OR.

    probabilities: that each token is the word, `[B, tokens, concepts]`. The result is the logit of
    1 - product(1 - p).
    """
    none = torch.log1p(-probabilities.clamp(max=1 - 1e-4)).sum(1).clamp(max=-1e-6)
    return torch.log(-torch.expm1(none)) - none


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """The mean over concepts of the average precision of `[videos, concepts]`; NaN for none."""
    order = np.argsort(-scores, axis=0, kind="stable")
    hits = np.take_along_axis(labels.astype(float), order, axis=0)
    precision = hits.cumsum(0) / np.arange(1, len(hits) + 1)[:, None]
    positives = hits.sum(0)
    counted = positives >= MIN_POSITIVES
    if not counted.any():
        return float("nan")
    return float(((precision * hits).sum(0)[counted] / positives[counted]).mean())


def mean_by_size(losses: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """The mean over videos of losses that are means over so many videos each."""
    total = torch.stack([loss * size for loss, size in zip(losses, sizes, strict=True)]).sum()
    return total / sum(sizes)


class ConceptPhase:
    """The phase, resumable, over the features of footage."""

    def __init__(
        self,
        tokens: ConceptTokens,
        vocabulary: ConceptVocabulary,
        sets: Sequence[FootageSet],
        validation: Sequence[FootageSet],
        folder: Path,
        *,
        seed: int = 0,
        report: Callable[[str], None] = print,
    ) -> None:
        self.tokens, self.sets, self.validation = tokens, sets, validation
        self.folder, self.seed, self.report = folder, seed, report
        self.device = next(tokens.parameters()).device
        self.shares = {
            one.name: torch.from_numpy(
                np.stack([vocabulary.shares(v.captions) for v in one.videos])
            )
            for one in (*sets, *validation)
        }

    def run(self, phase: ConceptPhaseConfig) -> float:
        """Train head and free tokens; returns seconds."""
        parts = nn.ModuleDict({"head": self.tokens.head, "free": self.tokens.free})

        def loss(number: int, rng: np.random.Generator) -> Tensor:
            losses = [self._loss(one, number, rng, phase) for one in self.sets]
            return mean_by_size(losses, [one.size(phase.batch) for one in self.sets])

        trainer = Trainer("concepts", parts, phase, self.folder, seed=self.seed, report=self.report)
        trainer.run(loss, self.validate if self.validation else None)
        return trainer.seconds

    def _loss(
        self, one: FootageSet, number: int, rng: np.random.Generator, phase: ConceptPhaseConfig
    ) -> Tensor:
        rows = one.captioned(one.rows(number, phase.batch, self.seed))
        if not rows:  # all that were drawn have questions only
            return self.tokens.head.norm.weight.sum() * 0
        batch = one.cache.batch(rows, rng, max_frames=phase.frames).to(self.device)
        shares = self.shares[one.name][rows].to(self.device)
        head_loss = concept_loss(self.tokens.head(batch.features, batch.mask), shares)
        words = self.tokens.free.word_probabilities(batch.features, batch.times, batch.mask)
        return head_loss + phase.free_weight * concept_loss(noisy_or_logits(words.float()), shares)

    @torch.no_grad()
    def measure(self) -> None:
        """Tell the head mean and deviation of the features, from a sample, and the base rates."""
        shares = torch.cat(
            [self.shares[one.name][one.captioned(one.cache.usable)] for one in self.sets]
        )
        self.tokens.head.base_rates.copy_(shares.mean(0))
        sample = torch.cat(
            [
                one.cache.clip(number)[0].float().flatten(0, 1)
                for one in self.sets
                for number in one.cache.usable[:: max(1, len(one.cache.usable) // SAMPLED_CLIPS)]
            ]
        )
        self.tokens.head.mean.copy_(sample.mean(0))
        self.tokens.head.deviation.copy_(sample.std(0) + 1e-3)

    @torch.no_grad()
    def logits(self, one: FootageSet) -> Tensor:
        """The head's logits of the captioned videos of a set: `[videos, concepts]`."""
        rows, found = one.captioned(one.cache.usable), []
        for start in range(0, len(rows), VALIDATION_BATCH):
            batch = one.cache.batch(rows[start : start + VALIDATION_BATCH]).to(self.device)
            found.append(self.tokens.head(batch.features, batch.mask).float().cpu())
        return torch.cat(found)

    def validate(self) -> dict[str, float]:
        """Mean average precision and loss on each set of validation."""
        self.tokens.eval()
        figures = {}
        for one in self.validation:
            logits, shares = (
                self.logits(one),
                self.shares[one.name][one.captioned(one.cache.usable)],
            )
            figures[f"{one.name} AP"] = average_precision(
                logits.cpu().numpy(), shares.cpu().numpy() > 0
            )
            figures[f"{one.name} loss"] = concept_loss(logits, shares).item()
        return figures

    def calibrate(self) -> None:
        """Fit slope and offset of the head's logits on the sets of validation (Platt, 1999)."""
        if not self.validation:
            return
        self.tokens.head.calibration.copy_(torch.tensor([1.0, 0.0]))
        self.tokens.eval()
        logits = torch.cat([self.logits(one) for one in self.validation])
        shares = torch.cat(
            [self.shares[one.name][one.captioned(one.cache.usable)] for one in self.validation]
        )
        fitted = torch.tensor([1.0, 0.0], requires_grad=True)
        optimizer = torch.optim.LBFGS([fitted], max_iter=30, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = concept_loss(logits * fitted[0] + fitted[1], shares)
            value.backward()
            return value

        optimizer.step(loss)
        self.tokens.head.calibration.copy_(fitted.detach())
