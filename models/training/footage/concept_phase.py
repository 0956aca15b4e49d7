"""The phase `concepts`: the concept head and the free tokens learn the words of captions.

A concept's target is the share of a video's captions that say it. No free token is assigned to a
word. A concept counts as present if any free token is its word (noisy-OR), so that the tokens
divide the concepts among them.
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
MIN_POSITIVES = 3  # a concept is scored if this many validation videos show it


def concept_loss(logits: Tensor, shares: Tensor) -> Tensor:
    """Binary cross-entropy of `[B, concepts]`, summed over concepts and averaged over videos."""
    return F.binary_cross_entropy_with_logits(logits, shares, reduction="none").sum(1).mean()


def noisy_or_logits(probabilities: Tensor) -> Tensor:
    """Logits that any soft token is the word of a concept: those of 1 - product(1 - p).

    probabilities: of each word in each token, `[B, tokens, concepts]`. Returns `[B, concepts]`.
    """
    log_none = torch.log1p(-probabilities.clamp(max=1 - 1e-4)).sum(1).clamp(max=-1e-6)
    return torch.log(-torch.expm1(log_none)) - log_none


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean average precision over concepts, of scores and labels `[videos, concepts]`.

    Concepts with fewer than MIN_POSITIVES positive labels are left out; NaN if all are.
    """
    order = np.argsort(-scores, axis=0, kind="stable")
    hits = np.take_along_axis(labels.astype(float), order, axis=0)
    precision = hits.cumsum(0) / np.arange(1, len(hits) + 1)[:, None]
    positives = hits.sum(0)
    counted = positives >= MIN_POSITIVES
    if not counted.any():
        return float("nan")
    return float(((precision * hits).sum(0)[counted] / positives[counted]).mean())


def mean_by_size(losses: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """The mean loss of all videos, from mean losses over `sizes` videos each."""
    total = torch.stack([loss * size for loss, size in zip(losses, sizes, strict=True)]).sum()
    return total / sum(sizes)


class ConceptPhase:
    """The phase `concepts`; a run continues from its last checkpoint.

    Args:
        tokens: the network of the soft tokens.
        vocabulary: the concepts.
        sets, validation: footage of training and of validation.
        folder: for checkpoints and the log.
    """

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
            footage.name: torch.from_numpy(
                np.stack([vocabulary.shares(v.captions) for v in footage.videos])
            )
            for footage in (*sets, *validation)
        }

    def run(self, phase: ConceptPhaseConfig) -> float:
        """Train the head and the free tokens; returns seconds."""
        parts = nn.ModuleDict({"head": self.tokens.head, "free": self.tokens.free})

        def loss(number: int, rng: np.random.Generator) -> Tensor:
            losses = [self._loss(footage, number, rng, phase) for footage in self.sets]
            return mean_by_size(losses, [footage.size(phase.batch) for footage in self.sets])

        trainer = Trainer("concepts", parts, phase, self.folder, seed=self.seed, report=self.report)
        trainer.run(loss, self.validate if self.validation else None)
        return trainer.seconds

    def _loss(
        self, footage: FootageSet, number: int, rng: np.random.Generator, phase: ConceptPhaseConfig
    ) -> Tensor:
        rows = footage.captioned(footage.rows(number, phase.batch, self.seed))
        if not rows:  # all drawn videos have only questions
            return self.tokens.head.norm.weight.sum() * 0
        batch = footage.cache.batch(rows, rng, max_frames=phase.frames).to(self.device)
        shares = self.shares[footage.name][rows].to(self.device)
        head_loss = concept_loss(self.tokens.head(batch.features, batch.mask), shares)
        words = self.tokens.free.word_probabilities(batch.features, batch.times, batch.mask)
        return head_loss + phase.free_weight * concept_loss(noisy_or_logits(words.float()), shares)

    @torch.no_grad()
    def measure(self) -> None:
        """Set the head's base rates, and its mean and deviation of features from a sample."""
        self.tokens.head.base_rates.copy_(self.captioned_shares(self.sets).mean(0))
        sample = torch.cat(
            [
                footage.cache.clip(number)[0].float().flatten(0, 1)
                for footage in self.sets
                for number in footage.cache.usable[
                    :: max(1, len(footage.cache.usable) // SAMPLED_CLIPS)
                ]
            ]
        )
        self.tokens.head.mean.copy_(sample.mean(0))
        self.tokens.head.deviation.copy_(sample.std(0) + 1e-3)

    @torch.no_grad()
    def logits(self, footage: FootageSet) -> Tensor:
        """The head's logits for the captioned videos of a set, `[videos, concepts]`."""
        rows, logits = footage.captioned(footage.cache.usable), []
        for start in range(0, len(rows), VALIDATION_BATCH):
            batch = footage.cache.batch(rows[start : start + VALIDATION_BATCH]).to(self.device)
            logits.append(self.tokens.head(batch.features, batch.mask).float().cpu())
        return torch.cat(logits)

    def captioned_shares(self, sets: Sequence[FootageSet]) -> Tensor:
        """The targets of the captioned videos of sets, `[videos, concepts]`."""
        return torch.cat(
            [self.shares[footage.name][footage.captioned(footage.cache.usable)] for footage in sets]
        )

    def validate(self) -> dict[str, float]:
        """Mean average precision and loss on each validation set."""
        self.tokens.eval()
        figures = {}
        for footage in self.validation:
            logits, shares = self.logits(footage), self.captioned_shares([footage])
            figures[f"{footage.name} AP"] = average_precision(
                logits.cpu().numpy(), shares.cpu().numpy() > 0
            )
            figures[f"{footage.name} loss"] = concept_loss(logits, shares).item()
        return figures

    def calibrate(self) -> None:
        """Fit slope and offset of the head's logits to the validation sets (Platt, 1999)."""
        if not self.validation:
            return
        self.tokens.head.calibration.copy_(torch.tensor([1.0, 0.0]))
        self.tokens.eval()
        logits = torch.cat([self.logits(footage) for footage in self.validation])
        shares = self.captioned_shares(self.validation)
        fitted = torch.tensor([1.0, 0.0], requires_grad=True)
        optimizer = torch.optim.LBFGS([fitted], max_iter=30, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = concept_loss(logits * fitted[0] + fitted[1], shares)
            value.backward()
            return value

        optimizer.step(loss)
        self.tokens.head.calibration.copy_(fitted.detach())
