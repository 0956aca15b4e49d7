"""Train a projector and the LLM's LoRA adapter, on synthetic clips that are drawn as needed.

First the soft tokens learn to be the words of the slots (`align`: quick, without the LLM), and the
LLM to read such words (`text_only`: without a video); then it learns to answer from what the soft
tokens do say (`joint`). The tower stays as it is. On a GPU if there is one; the steps are the
same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.config_tables import unknown_name_error
from reellama.models.precision import autocast
from reellama.models.projector import slots
from reellama.models.projector.temporal_projector import Projector
from reellama.models.synthetic.dataset import SyntheticClips
from reellama.models.synthetic.scenarios.registry import SCENARIOS
from reellama.models.synthetic.scenarios.stills import STILL_SCENARIOS
from reellama.models.training import distributed
from reellama.models.training.batches import ClipBatch, Conversations, clip_batches
from reellama.models.training.collate import IGNORED, ConversationCollator
from reellama.models.training.frozen_llm import FrozenLLM
from reellama.models.training.lora import LoraAdapters
from reellama.models.training.trainer import Trainer, TrainerConfig
from reellama.models.vision.encoder import BATCH_FRAMES, Tower

ReportLine = Callable[[str], None]

TOWER_BATCH = 1024  # frames a call of the tower on a GPU
# The first clip of each phase, so that none sees what another one saw.
FIRST_SAMPLE = {"align": 0, "joint": 100_000_000, "text_only": 200_000_000}
LLM_BATCH = 8  # conversations a call of the LLM on a CPU, where padding costs more than calls


@dataclass(frozen=True)
class LoraConfig:
    """The `[lora]` table of a config.

    align_weight: share of the words' loss that is kept while the LLM learns.
    kl_weight: share of the loss that holds the LLM to what it says without a video.
    validation_clips: clips, and as many stills, that a validation looks at.
    freeze_projector: the projector stays as it is, and only the adapter learns. With the small
        batches that a CPU can take, a projector forgets in `joint` what it could.
    count_weight: weight of the two counts in the words' loss, where they are two tokens of many.
    motion_weight: the same of what the first thing does, and then does.
    separate_turns: every turn about a clip is a conversation of its own; in a common one, an
        earlier answer often gives away a later one.
    oracle_fraction: share of the clips in `joint` that the LLM reads as in the phase `text_only`;
        with `freeze_projector` only.
    kl_texts: texts that the bare LLM writes for that, of `kl_tokens` tokens each.
    """

    rank: int = 16
    alpha: float = 32.0
    align_weight: float = 0.3
    kl_weight: float = 1.0
    count_weight: float = 1.0
    motion_weight: float = 1.0
    freeze_projector: bool = False
    separate_turns: bool = False
    oracle_fraction: float = 0.0
    kl_texts: int = 512
    kl_tokens: int = 96
    kl_batch: int = 16
    validation_clips: int = 512


@dataclass(frozen=True)
class TextPhaseConfig(TrainerConfig):
    """A phase over synthetic clips, told or drawn.

    sampling_weights: how many times as often as usual a scenario is drawn, by its name.
    """

    sampling_weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, times in self.sampling_weights.items():
            if name not in self._scenarios() and name in STILL_SCENARIOS:
                raise ReellamaError(
                    f"sampling_weights.{name} does nothing in a phase without still_batch"
                )
            if name not in self._scenarios():
                raise unknown_name_error("scenario", name, self._scenarios())
            if times < 0:
                raise ReellamaError(f"sampling_weights.{name} must be 0 or more, not {times}")

    def _scenarios(self) -> list[str]:
        """The names of what is drawn."""
        return [*SCENARIOS]


@dataclass(frozen=True)
class ClipPhaseConfig(TextPhaseConfig):
    """A phase over synthetic clips that are drawn.

    still_batch: single pictures of one forward pass, beside its clips; `sampling_weights` is of
        them too.
    """

    still_batch: int = 0

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.batch, self.still_batch)

    def _scenarios(self) -> list[str]:
        return [*dict.fromkeys([*SCENARIOS, *(STILL_SCENARIOS if self.still_batch else ())])]


def device() -> torch.device:
    """This process's GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class InstructionStages:
    """Three phases over one projector and one LoRA adapter, each of them resumable."""

    def __init__(
        self,
        stories: SyntheticClips,
        validation: SyntheticClips,
        tower: Tower,
        llm: FrozenLLM,
        teacher: ConversationCollator,
        projector: Projector,
        config: LoraConfig,
        folder: Path,
        *,
        seed: int = 0,
        workers: int | None = None,
        report: ReportLine = print,
    ) -> None:
        self.stories, self.stills = stories, stories.as_stills()
        self.validation, self.teacher = validation, teacher
        self.config, self.folder, self.seed, self.report = config, folder, seed, report
        self.workers = distributed.workers() if workers is None else workers
        self.device = device()
        self.tower = tower.to(self.device)
        self.llm = llm.to(self.device)
        torch.manual_seed(seed)
        self.lora = LoraAdapters(llm.model, config.rank, config.alpha)
        self.projector = projector.to(self.device)
        self.both = nn.ModuleDict({"projector": self.projector, "lora": self.lora})
        self._kept: Tensor | None = None
        self._batches: Iterator[tuple[ClipBatch, ...]] = iter(())

    def align(self, stage: ClipPhaseConfig) -> float:
        """Soft tokens become words; returns seconds."""

        def loss(number: int, rng: np.random.Generator) -> Tensor:
            parts = [self._slot_loss(batch)[0] for batch in next(self._batches)]
            return torch.stack(parts).mean()

        return self._run("align", self.projector, stage, loss)

    def text_only(self, stage: TextPhaseConfig) -> float:
        """The LLM answers from forms as they ought to be, without any video; returns seconds.

        Where a form is often wrong, the LLM learns not to trust it, and guesses.
        """
        told, size = (
            self.stories.with_sampling_weights(stage.sampling_weights),
            distributed.local_batch_size(stage.batch),
        )

        def loss(number: int, rng: np.random.Generator) -> Tensor:
            first = (
                FIRST_SAMPLE["text_only"]
                + (number * distributed.world_size() + distributed.rank()) * size
            )
            batch = self.teacher([told.without_video(first + row) for row in range(size)])
            answers = self._answer_loss(self._oracle_soft_tokens(batch), batch)
            return answers + self.config.kl_weight * self._regularization_loss(rng)

        running = Trainer(
            "text_only", self.lora, stage, self.folder, seed=self.seed, report=self.report
        )
        running.run(loss, lambda: self.validate(True, False))
        return running.seconds

    def joint(self, stage: ClipPhaseConfig) -> float:
        """The LLM answers from soft tokens; returns seconds."""

        def loss(number: int, rng: np.random.Generator) -> Tensor:
            parts = [self._joint_loss(batch) for batch in next(self._batches)]
            return torch.stack(parts).mean() + self.config.kl_weight * self._regularization_loss(
                rng
            )

        if not self.config.freeze_projector:
            return self._run("joint", self.both, stage, loss)
        self.projector.eval().requires_grad_(False)
        return self._run("joint", self.lora, stage, loss)

    def _run(
        self,
        name: str,
        module: nn.Module,
        stage: ClipPhaseConfig,
        loss: Callable[[int, np.random.Generator], Tensor],
    ) -> float:
        running = Trainer(name, module, stage, self.folder, seed=self.seed, report=self.report)
        self._batches = self._clip_batches(name, stage, running.step)
        running.run(loss, lambda: self.validate(name == "joint", stage.still_batch > 0))
        return running.seconds

    def _clip_batches(
        self, name: str, stage: ClipPhaseConfig, step: int
    ) -> Iterator[tuple[ClipBatch, ...]]:
        """Clips, and stills if the phase has them, from `step` on; they cannot share a batch,
        for the padding of a still would cost as much as a clip."""
        first, told = FIRST_SAMPLE[name], self.stories.with_sampling_weights(stage.sampling_weights)
        stills = self.stills.with_sampling_weights(stage.sampling_weights)
        sizes = [(told, stage.batch), (stills, stage.still_batch)]
        parts = []
        for stories, size in sizes:
            if size:
                begin, end = (first + at * size * stage.accumulate for at in (step, stage.steps))
                parts.append(clip_batches(stories, self.teacher, begin, end, size, self.workers))
        return zip(*parts, strict=True)

    def hidden(self, batch: ClipBatch) -> Tensor:
        """What the projector makes of a batch, `[B, tokens, width]`."""
        frames = batch.frames.to(self.device, non_blocking=True)
        count, longest = frames.shape[:2]
        flat = frames.flatten(0, 1)
        size = TOWER_BATCH if self.device.type == "cuda" else BATCH_FRAMES
        with torch.no_grad():
            grids = [self.tower.cells(part) for part in flat.split(size)]
        features = torch.cat(grids).unflatten(0, (count, longest))  # [B, T, cells, channels]
        return self.projector.hidden(
            features, batch.times.to(self.device), batch.mask.to(self.device)
        )

    def _soft(self, hidden: Tensor, batch: ClipBatch) -> Tensor:
        """The projector's soft tokens and, after them, the names that the classifier gives."""
        return self._with_imagenet_names(self.projector.word_mixture(hidden), batch)

    @torch.no_grad()
    def _oracle_soft_tokens(self, batch: ClipBatch) -> Tensor:
        """As `_soft`, of a projector that puts every word of the form first, and no other."""
        words = self.projector.word_mixture.embeddings[batch.targets.clamp(min=0).to(self.device)]
        return self._with_imagenet_names(words, batch)

    def _with_imagenet_names(self, words: Tensor, batch: ClipBatch) -> Tensor:
        named = self.llm.embed(batch.imagenet_tokens.to(self.device))
        return torch.cat([words.float(), named.float()], dim=1)

    def _slot_loss(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        hidden = self.hidden(batch)
        logits = self.projector.word_mixture.logits(hidden).float()
        wanted = batch.targets.to(self.device)
        losses = F.cross_entropy(
            logits.transpose(1, 2), wanted, ignore_index=IGNORED, reduction="none"
        )
        weights = torch.ones(wanted.shape[1], device=self.device)
        weights[: slots.N_COUNT_TOKENS] = self.config.count_weight
        spans = slots.slot_spans()
        for start, end in (spans[slots.MOTION_SLOT], spans[slots.THEN_SLOT]):
            weights[start:end] = self.config.motion_weight
        return (losses * weights).sum() / (wanted != IGNORED).sum(), hidden

    def _joint_loss(self, batch: ClipBatch) -> Tensor:
        if self.config.freeze_projector:
            with torch.no_grad():
                soft = self._soft(self.hidden(batch), batch)
                ideal = (
                    torch.rand(len(soft), 1, 1, device=self.device) < self.config.oracle_fraction
                )
                soft = torch.where(ideal, self._oracle_soft_tokens(batch), soft)
            return self._answer_loss(soft, batch)
        words, hidden = self._slot_loss(batch)
        answers = self._answer_loss(self._soft(hidden, batch), batch)
        return answers + self.config.align_weight * words

    def _logits(self, soft: Tensor, told: Conversations) -> tuple[Tensor, Tensor, Tensor]:
        """Logits where an answer is predicted, the tokens wanted there, and whose they are."""
        before = self.llm.embed(self.teacher.before)
        ids, labels, parts = (column.to(self.device) for column in told.padded(IGNORED))
        inputs = torch.cat(
            [
                before.expand(len(soft), -1, -1).to(self.llm.dtype),
                soft.to(self.llm.dtype),
                self.llm.embed(ids).to(self.llm.dtype),
            ],
            dim=1,
        )
        start = len(self.teacher.before) + soft.shape[1]
        # Padding stands at the end, where a causal model does not see it.
        apart = (
            _separate_attention(parts, start, inputs.dtype) if self.teacher.separate_turns else {}
        )
        states = self.llm.model.get_decoder()(inputs_embeds=inputs, **apart).last_hidden_state
        said = states[:, start - 1 : -1]
        counted = labels != IGNORED
        logits = self.llm.model.get_output_embeddings()(said[counted]).float()
        rows = torch.arange(len(ids), device=self.device)[:, None].expand_as(labels)[counted]
        return logits, labels[counted], rows

    def _answer_loss(self, soft: Tensor, batch: ClipBatch) -> Tensor:
        """Mean over the tokens of all answers; conversations of like length go side by side."""
        lengths = torch.tensor([len(ids) for ids in batch.conversations.ids])
        size = len(lengths) if self.device.type == "cuda" else LLM_BATCH
        total, count = torch.zeros((), device=self.device), 0
        for rows in lengths.argsort().split(size):
            told = batch.conversations.select(rows.tolist())
            logits, wanted, _ = self._logits(soft[rows.to(self.device)], told)
            total = total + F.cross_entropy(logits, wanted, reduction="sum")
            count += len(wanted)
        return total / count

    def _regularization_loss(self, rng: np.random.Generator) -> Tensor:
        """How far the LLM has gone from the bare one on texts that the bare one wrote (KL)."""
        if self._kept is None:
            self._kept = self.reference_texts()
        rows = torch.from_numpy(rng.choice(len(self._kept), self.config.kl_batch, replace=False))
        ids = self._kept[rows.to(self.device)]
        with torch.no_grad(), self.lora.disabled():
            wanted = self.llm.model(input_ids=ids).logits.float().log_softmax(-1)
        found = self.llm.model(input_ids=ids).logits.float().log_softmax(-1)
        return F.kl_div(
            found.flatten(0, 1), wanted.flatten(0, 1), log_target=True, reduction="batchmean"
        )

    @torch.no_grad()
    def reference_texts(self) -> Tensor:
        """Texts by the bare LLM, ids `[kl_texts, kl_tokens]`: half of them conversations."""
        encode = self.teacher.tokenizer.encode
        starts = [encode("\n"), self.teacher.before]
        torch.manual_seed(self.seed)
        texts = []
        self.llm.model.eval()
        with self.lora.disabled():
            for start in starts:
                ids = torch.tensor([start] * (self.config.kl_texts // 2), device=self.device)
                out = self.llm.model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=True,
                    temperature=1.0,
                    top_k=0,
                    top_p=1.0,
                    max_new_tokens=max(1, self.config.kl_tokens - len(start)),
                    min_new_tokens=max(1, self.config.kl_tokens - len(start)),
                )
                texts.append(out)
        shortest = min(text.shape[1] for text in texts)
        return torch.cat([text[:, :shortest] for text in texts])

    @torch.no_grad()
    def validate(self, answers: bool, stills: bool) -> dict[str, float]:
        """Words put first, and answers that are wholly right when each token follows the truth."""
        self.both.eval()  # a stage sees to what it trains only
        found = self._validate(self.validation, answers)
        if stills:
            single = self._validate(self.validation.as_stills(), answers)
            found |= {f"{name} of stills": value for name, value in single.items()}
        return found

    def _validate(self, stories: SyntheticClips, answers: bool) -> dict[str, float]:
        fields: list[np.ndarray] = []
        tasks: dict[str, list[bool]] = defaultdict(list)
        size, workers = 64, min(self.workers, 8)
        count = self.config.validation_clips
        for batch in clip_batches(stories, self.teacher, 0, count, size, workers, shared=False):
            with autocast(self.device):
                hidden = self.hidden(batch)
                found = self.projector.word_mixture.logits(hidden).argmax(-1).cpu()
                fields.append(_correct_slots(found, batch.targets))
                if answers:
                    soft = self._soft(hidden, batch)
                    self._score_answers(batch, *self._logits(soft, batch.conversations), tasks)
        right, filled = np.sum(fields, axis=0)
        shares = right / np.maximum(1, filled)
        every = [hit for got in tasks.values() for hit in got]
        if answers:
            ordered = sorted(tasks.items())
            told = (f"{name} {np.mean(got):.3f} ({len(got)})" for name, got in ordered)
            self.report("  " + ", ".join(told))
        return {
            "fields": float(right.sum() / filled.sum()),
            "names": float(shares[slots.NAME_SLOT]),
            "motions": float(shares[slots.MOTION_SLOT]),
            **({"answers": float(np.mean(every))} if every else {}),
        }

    def _score_answers(
        self,
        batch: ClipBatch,
        logits: Tensor,
        wanted: Tensor,
        rows: Tensor,
        tasks: dict[str, list[bool]],
    ) -> None:
        """Split the predictions into answers, and note by task which are right throughout."""
        eos = self.teacher.tokenizer.eos
        hits = (logits.argmax(-1) == wanted).tolist()
        row, turn, whole = -1, 0, True
        for hit, token, now in zip(hits, wanted.tolist(), rows.tolist(), strict=True):
            if now != row:
                row, turn = now, 0
            whole = whole and hit
            if token == eos:
                tasks[batch.tasks[row][turn]].append(whole)
                turn, whole = turn + 1, True


def _separate_attention(parts: Tensor, start: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Arguments for an LLM that reads `parts [B, L]` after `start` shared tokens, each for itself.

    Every part's positions go on from the shared tokens, and it sees those and itself.
    """
    count = start + parts.shape[1]
    whose = F.pad(parts, (start, 0), value=-1)  # [B, count]
    steps = torch.arange(count, device=parts.device)
    begins = (whose[:, :, None] == whose[:, None]).int().argmax(2)  # first token of one's part
    shared = steps < start
    positions = torch.where(shared, steps, steps - begins + start)
    seen = (whose[:, :, None] == whose[:, None]) | shared
    seen &= steps[:, None] >= steps
    hidden = torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
    return {"attention_mask": hidden[:, None], "position_ids": positions}


def _correct_slots(found: Tensor, wanted: Tensor) -> np.ndarray:
    """How many forms have each field filled wholly right, and filled at all: `[2, fields]`."""
    counts = []
    for start, end in slots.slot_spans():
        truth = wanted[:, start:end]
        filled = (truth != 0).any(1)
        right = ((found[:, start:end] == truth) | (truth == IGNORED)).all(1)
        counts.append(((right & filled).sum(), filled.sum()))
    return np.array(counts).T
