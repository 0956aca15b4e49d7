"""The phase `captions`: the LLM's adapter and the free tokens learn to describe real footage.

A step draws a few captions and questions of each video. Each is a conversation of its own, but all
of a video share its soft tokens, which the LLM reads only once. Synthetic clips are mixed in, so
that the adapter does not forget how to read slots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.concepts.caption_questions import NO, YES, questions
from reellama.models.concepts.caption_things import Things
from reellama.models.concepts.concept_tokens import ConceptTokens
from reellama.models.concepts.vocabulary import ConceptVocabulary
from reellama.models.prompt_format import question_ids
from reellama.models.training import distributed
from reellama.models.training.batches import ClipBatch, Conversations, clip_batches
from reellama.models.training.feature_cache import Batch
from reellama.models.training.footage.caption_consensus import CaptionConsensus
from reellama.models.training.footage.caption_sampling import advantages, sample_captions
from reellama.models.training.footage.captioned_videos import (
    CaptionedVideo,
    FootageSet,
    Turn,
    sentences,
)
from reellama.models.training.footage.cider_reward import CiderReward
from reellama.models.training.footage.concept_phase import mean_by_size
from reellama.models.training.footage.footage_config import CaptionPhaseConfig
from reellama.models.training.objectives import YesNoLabelSmoothing
from reellama.models.training.phases.instruction import InstructionPhases
from reellama.models.training.trainer import Trainer, batch_rows
from reellama.models.vision.imagenet_labels import ImageNetClassifier

FIRST_DRAWN = 300_000_000  # number of the first synthetic clip, which no other phase draws
VALIDATION_VIDEOS = 64  # of each set
MIN_REFERENCES = 4  # fewer captions of a video are too few to score a sampled one against
OTHER_REQUESTS = ("What happens in the video?", "What is happening?", "What do you see?")
USUAL_REQUEST = 0.5  # share of the captions that answer the bundle's own request


class CaptionPhase:
    """The phase `captions`; a run continues from its last checkpoint.

    Args:
        tokens: the network of the soft tokens, whose free tokens are trained.
        vocabulary, things: for questions made from captions.
        sets: of training.
        validation: sets of validation.
        instruction: the adapter, its objective, and the projector of synthetic clips.
        labels: the classifier whose labels follow the soft tokens; None for a bundle without.
        describe: the bundle's request for a description.
    """

    def __init__(
        self,
        tokens: ConceptTokens,
        vocabulary: ConceptVocabulary,
        things: Things,
        sets: Sequence[FootageSet],
        validation: Sequence[FootageSet],
        instruction: InstructionPhases,
        labels: ImageNetClassifier | None,
        describe: str,
    ) -> None:
        self.tokens, self.vocabulary, self.things = tokens, vocabulary, things
        captions = [v.captions for footage in sets for v in footage.videos]
        self._consensus, self._reward = CaptionConsensus(captions), CiderReward(captions)
        self._consensus_captions: dict[Path, list[str]] = {}
        self.sets, self.validation = sets, validation
        self.instruction, self.labels, self.describe = instruction, labels, describe
        self.device = instruction.device
        self._drawn: Iterator[ClipBatch] = iter(())

    def run(
        self, phase: CaptionPhaseConfig, folder: Path, seed: int, report: Callable[[str], None]
    ) -> float:
        """Train the adapter and the free tokens, with a frozen concept head; returns seconds."""
        self.tokens.head.eval().requires_grad_(False)
        self.instruction.projector.eval().requires_grad_(False)
        if phase.samples and not any(_well_captioned(footage) for footage in self.sets):
            raise ReellamaError(
                f"captions.samples compares with {MIN_REFERENCES} captions of a video or more; "
                "no file of footage.train has so many"
            )
        trained = nn.ModuleDict({"tokens": self.tokens, "lora": self.instruction.lora})
        smoothing = self._yes_no_smoothing(phase.yes_no_smoothing)

        def loss(number: int, rng: np.random.Generator) -> Tensor:
            self.tokens.head.eval()  # the trainer has put all modules into training mode
            losses = []
            for footage in self.sets:
                rows = footage.rows(number, phase.batch, seed)
                batch = footage.cache.batch(rows, rng, max_frames=phase.frames)
                turns = [self.turns(footage.videos[row], rng, phase) for row in rows]
                losses.append(self._loss(batch, turns, smoothing))
            total = mean_by_size(losses, [footage.size(phase.batch) for footage in self.sets])
            if phase.drawn_batch:
                total = total + phase.drawn_weight * self._drawn_loss()
            if phase.samples:
                total = total + phase.reward_weight * self._reward_loss(
                    number, rng, phase, seed + 1
                )
            return total

        trainer = Trainer("captions", trained, phase, folder, seed=seed, report=report)
        self._drawn = self._drawn_batches(phase, trainer.step)
        trainer.run(loss, self.validate if self.validation else None)
        return trainer.seconds

    def turns(
        self, video: CaptionedVideo, rng: np.random.Generator, phase: CaptionPhaseConfig
    ) -> list[Turn]:
        """Random captions and questions of a video."""
        if video.path not in self._consensus_captions:
            ranked = self._consensus.ranked(sentences(video))
            count = max(1, round(phase.agreeing * len(ranked)))
            self._consensus_captions[video.path] = ranked[:count]
        captions = self._consensus_captions[video.path]
        drawn = [captions[n] for n in rng.permutation(len(captions))[: phase.captions]]
        forms, count = self.vocabulary.forms, phase.questions
        turns = [
            *video.turns,
            *questions(video.captions, self.things, forms, rng, max_questions=count),
        ]
        chosen = [turns[n] for n in rng.permutation(len(turns))[:count]]
        return [*((self._request(rng), caption) for caption in drawn), *chosen]

    def _request(self, rng: np.random.Generator) -> str:
        if rng.random() < USUAL_REQUEST:
            return self.describe
        return OTHER_REQUESTS[int(rng.integers(len(OTHER_REQUESTS)))]

    def soft_tokens(self, batch: Batch) -> Tensor:
        """Soft tokens of a batch, followed by those of its ImageNet labels."""
        moved = batch.to(self.device)
        soft = self.tokens(moved.features, moved.times, moved.mask).float()
        if self.labels is None:
            return soft
        names = [
            torch.from_numpy(self.labels.tokens(grid[mask].cpu().numpy()))
            for grid, mask in zip(batch.features, batch.mask, strict=True)
        ]
        return torch.cat([soft, torch.stack(names).to(self.device)], dim=1)

    def _yes_no_smoothing(self, share: float) -> YesNoLabelSmoothing | None:
        yes, no = (self.instruction.collator.tokenizer.encode(text)[0] for text in (YES, NO))
        return YesNoLabelSmoothing((yes, no), share) if share else None

    def _loss(
        self,
        batch: Batch,
        turns: Sequence[Sequence[Turn]],
        smoothing: YesNoLabelSmoothing | None = None,
    ) -> Tensor:
        """The LLM's loss on the turns of each video of a batch."""
        conversations = self._conversations(turns)
        return self.instruction.answers.loss(self.soft_tokens(batch), conversations, smoothing)

    def _conversations(self, turns: Sequence[Sequence[Turn]]) -> Conversations:
        """The turns of each video, tokenized."""
        rows = [self.instruction.collator.tokenize_turns(list(of_video)) for of_video in turns]
        return Conversations(*(list(column) for column in zip(*rows, strict=True)))

    def _reward_loss(
        self, number: int, rng: np.random.Generator, phase: CaptionPhaseConfig, seed: int
    ) -> Tensor:
        """Self-critical loss: it makes sampled captions likelier that score better than the other
        samples of their video."""
        losses, sizes = [], []
        for footage in self.sets:
            rows = self._sampled_rows(footage, number, phase.sampled_batch, seed)
            if rows:
                soft = self.soft_tokens(footage.cache.batch(rows, rng, max_frames=phase.frames))
                losses.append(self._sampled_loss(soft, [footage.videos[n] for n in rows], phase))
                sizes.append(len(rows))
        if not losses:  # this process's part of a small batch
            return self.tokens.likely.sum() * 0
        return mean_by_size(losses, sizes)

    def _sampled_rows(self, footage: FootageSet, number: int, batch: int, seed: int) -> list[int]:
        """This process's videos in a step, drawn from those with enough captions."""
        videos = _well_captioned(footage)
        drawn = batch_rows(number, footage.size(batch), len(videos), seed) if videos else []
        return [videos[row] for row in drawn[distributed.rank() :: distributed.world_size()]]

    def _sampled_loss(
        self, soft: Tensor, videos: Sequence[CaptionedVideo], phase: CaptionPhaseConfig
    ) -> Tensor:
        collator, answers = self.instruction.collator, self.instruction.answers
        _, after = question_ids(
            collator.template, collator.tokenizer, collator.system, self.describe, ()
        )
        sampled = sample_captions(answers.llm, answers.before, soft, after, phase.samples)
        rewards = torch.tensor(
            [
                advantages(self._reward.scores(captions, sentences(video)))
                for captions, video in zip(sampled, videos, strict=True)
            ],
            device=self.device,
        )  # [videos, samples]
        conversations = self._conversations(
            [[(self.describe, text) for text in captions] for captions in sampled]
        )
        return answers.weighted_loss(soft, conversations, rewards)

    def _drawn_batches(self, phase: CaptionPhaseConfig, step: int) -> Iterator[ClipBatch]:
        """Batches of synthetic clips for the steps from `step` on."""
        size = phase.drawn_batch
        if not size:
            return iter(())
        begin, end = (FIRST_DRAWN + at * size * phase.accumulate for at in (step, phase.steps))
        return clip_batches(
            self.instruction.clips,
            self.instruction.collator,
            begin,
            end,
            size,
            self.instruction.workers,
        )

    def _drawn_loss(self) -> Tensor:
        """The LLM's loss on the next batch of synthetic clips."""
        batch = next(self._drawn)
        with torch.no_grad():
            soft = self.instruction.soft_tokens(self.instruction.hidden(batch), batch)
        return self.instruction.answers.loss(soft, batch.conversations)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The loss of each validation set, on the first caption of its first videos."""
        self.tokens.eval()
        figures = {}
        for footage in self.validation:
            rows = [n for n in footage.cache.usable if footage.videos[n].captions][
                :VALIDATION_VIDEOS
            ]
            turns = [[(self.describe, sentences(footage.videos[row])[0])] for row in rows]
            figures[f"{footage.name} loss"] = self._loss(footage.cache.batch(rows), turns).item()
        return figures


def _well_captioned(footage: FootageSet) -> list[int]:
    """The videos of a set with enough captions to score a sampled one against."""
    return [n for n in footage.cache.usable if len(footage.videos[n].captions) >= MIN_REFERENCES]
