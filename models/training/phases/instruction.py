"""The phases `text_only` and `joint`: the LLM's LoRA adapter learns to answer from soft tokens.

In `text_only` the soft tokens are the true words of the slots, without a video. In `joint` they
come from the projector, which may be trained, too.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from reellama.models.projector.temporal_projector import Projector
from reellama.models.synthetic.dataset import SyntheticClips
from reellama.models.training import distributed
from reellama.models.training.batches import ClipBatch
from reellama.models.training.collate import ConversationCollator
from reellama.models.training.frozen_llm import FrozenLLM
from reellama.models.training.lora import LoraAdapters
from reellama.models.training.objectives import AnswerObjective, BareLLMDivergence
from reellama.models.training.phases.alignment import FIRST_SAMPLE, AlignmentPhase, ReportLine
from reellama.models.training.phases.phase_config import (
    ClipPhaseConfig,
    LoraConfig,
    TextPhaseConfig,
)
from reellama.models.training.trainer import Trainer
from reellama.models.vision.encoder import Tower


class InstructionPhases(AlignmentPhase):
    """The phases `align`, `text_only` and `joint` of one projector and one adapter.

    Arguments as `AlignmentPhase`, and the LLM.
    """

    def __init__(
        self,
        clips: SyntheticClips,
        validation: SyntheticClips,
        tower: Tower,
        llm: FrozenLLM,
        collator: ConversationCollator,
        projector: Projector,
        config: LoraConfig,
        folder: Path,
        *,
        seed: int = 0,
        workers: int | None = None,
        report: ReportLine = print,
    ) -> None:
        super().__init__(
            clips, validation, tower, collator, projector, config, folder,
            seed=seed, workers=workers, report=report,
        )  # fmt: skip
        self.llm = llm.to(self.device)
        torch.manual_seed(seed)
        self.lora = LoraAdapters(llm.model, config.rank, config.alpha)
        self.trained = nn.ModuleDict({"projector": self.projector, "lora": self.lora})
        self.answers = AnswerObjective(llm, collator.before, collator.separate_turns)
        self._divergence: BareLLMDivergence | None = None

    def text_only(self, phase: TextPhaseConfig) -> float:
        """Train the adapter to answer from the true words of the slots; returns seconds.

        Trained on soft tokens that are often wrong, the LLM would learn to guess instead.
        """
        clips = self.clips.with_sampling_weights(phase.sampling_weights)
        size = distributed.local_batch_size(phase.batch)

        def loss(number: int, rng: np.random.Generator) -> Tensor:
            step = number * distributed.world_size() + distributed.rank()
            first = FIRST_SAMPLE["text_only"] + step * size
            batch = self.collator([clips.without_video(first + row) for row in range(size)])
            answers = self.answers.loss(self.oracle_soft_tokens(batch), batch.conversations)
            return answers + self.config.kl_weight * self.divergence.loss(rng)

        trainer = Trainer(
            "text_only", self.lora, phase, self.folder, seed=self.seed, report=self.report
        )
        trainer.run(loss, lambda: self.validate(True, False))
        return trainer.seconds

    def joint(self, phase: ClipPhaseConfig) -> float:
        """Train to answer from the projector's soft tokens; returns seconds."""

        def loss(number: int, rng: np.random.Generator) -> Tensor:
            losses = torch.stack([self.joint_loss(batch) for batch in next(self._batches)])
            return losses.mean() + self.config.kl_weight * self.divergence.loss(rng)

        if not self.config.freeze_projector:
            return self.run("joint", self.trained, phase, loss)
        self.projector.eval().requires_grad_(False)
        return self.run("joint", self.lora, phase, loss)

    @property
    def divergence(self) -> BareLLMDivergence:
        """The divergence from the bare LLM, on texts of which half begin as conversations."""
        if self._divergence is None:
            self._divergence = BareLLMDivergence(
                self.llm,
                self.lora,
                [self.collator.tokenizer.encode("\n"), self.collator.before],
                texts=self.config.kl_texts,
                tokens=self.config.kl_tokens,
                batch=self.config.kl_batch,
                seed=self.seed,
            )
        return self._divergence

    def soft_tokens(self, hidden: Tensor, batch: ClipBatch) -> Tensor:
        """The projector's soft tokens, followed by those of the ImageNet labels."""
        return self._with_imagenet_names(self.projector.word_mixture(hidden), batch)

    @torch.no_grad()
    def oracle_soft_tokens(self, batch: ClipBatch) -> Tensor:
        """As `soft_tokens`, with the embeddings of the slots' true words."""
        words = self.projector.word_mixture.embeddings[batch.targets.clamp(min=0).to(self.device)]
        return self._with_imagenet_names(words, batch)

    def _with_imagenet_names(self, soft: Tensor, batch: ClipBatch) -> Tensor:
        names = self.llm.embed(batch.imagenet_tokens.to(self.device))
        return torch.cat([soft.float(), names.float()], dim=1)

    def joint_loss(self, batch: ClipBatch) -> Tensor:
        """The loss of the answers, and of the slots unless the projector is frozen."""
        if self.config.freeze_projector:
            with torch.no_grad():
                soft = self.soft_tokens(self.hidden(batch), batch)
                oracle = (
                    torch.rand(len(soft), 1, 1, device=self.device) < self.config.oracle_fraction
                )
                soft = torch.where(oracle, self.oracle_soft_tokens(batch), soft)
            return self.answers.loss(soft, batch.conversations)
        words, hidden = self.slot_loss(batch)
        answers = self.answers.loss(self.soft_tokens(hidden, batch), batch.conversations)
        return answers + self.config.align_weight * words

    def validation_figures(self, clips: SyntheticClips, answers: bool) -> dict[str, float]:
        """Figures as in alignment, and the share of answers with all tokens right.

        Each token is predicted after the true ones, so the share is higher than for generated
        answers.
        """
        if not answers:
            return self.slot_accuracy(clips)
        tasks: dict[str, list[bool]] = defaultdict(list)
        figures = self.slot_accuracy(clips, partial(self._score_answers, tasks))
        by_task = (
            f"{name} {np.mean(hits):.3f} ({len(hits)})" for name, hits in sorted(tasks.items())
        )
        self.report("  " + ", ".join(by_task))
        every = [hit for hits in tasks.values() for hit in hits]
        return {**figures, **({"answers": float(np.mean(every))} if every else {})}

    def _score_answers(
        self, tasks: dict[str, list[bool]], hidden: Tensor, batch: ClipBatch
    ) -> None:
        """Append to `tasks`, for each answer of a batch, whether all of its tokens are right."""
        soft = self.soft_tokens(hidden, batch)
        logits, targets, rows = self.answers.logits(soft, batch.conversations)
        eos = self.collator.tokenizer.eos
        hits = (logits.argmax(-1) == targets).tolist()
        row, turn, all_right = -1, 0, True
        for hit, token, token_row in zip(hits, targets.tolist(), rows.tolist(), strict=True):
            if token_row != row:
                row, turn = token_row, 0
            all_right = all_right and hit
            if token == eos:
                tasks[batch.tasks[row][turn]].append(all_right)
                turn, all_right = turn + 1, True
