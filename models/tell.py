"""Train a projector and the LLM's adapter together, on stories that are drawn as they are needed.

First the soft tokens learn to be the words of the descriptions (`see`: quick, without the LLM),
and the LLM to read such words (`study`: without a video); then it learns to answer from what the
soft tokens do say (`tell`). The tower stays as it is. On a GPU if there is one; the steps are the
same.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import form, parallel
from models.llm import FrozenLLM
from models.lora import Lora
from models.optimise import Stage, StageConfig
from models.precision import autocast
from models.projector import Projector
from models.stream import Conversations, Stories, StoryBatch, batches
from models.teach import IGNORED, Teacher
from models.tower import BATCH_FRAMES, Tower

Report = Callable[[str], None]

TOWER_FRAMES = 1024  # frames a call of the tower on a GPU
# The first story of each stage, so that none sees what another one saw.
FIRST = {"see": 0, "tell": 100_000_000, "study": 200_000_000}
SIDE_BY_SIDE = 8  # conversations a call of the LLM on a CPU, where padding costs more than calls


@dataclass(frozen=True)
class TellConfig:
    """The `[adapter]` table of a recipe.

    align_weight: share of the words' loss that is kept while the LLM learns.
    keep_weight: share of the loss that holds the LLM to what it says without a video.
    validated: clips, and as many stills, that a validation looks at.
    frozen: the projector stays as it is, and only the adapter learns. With the small batches that
        a CPU can take, a projector forgets in `tell` what it could.
    count_weight: weight of the two counts in the words' loss, where they are two tokens of many.
    motion_weight: the same of what the first thing does, and then does.
    apart: every turn about a clip is a conversation of its own; in a common one, an earlier answer
        often gives away a later one.
    faultless: share of the clips in `tell` that the LLM reads as `study` would have them; with
        `frozen` only.
    kept_texts: texts that the bare LLM writes for that, of `kept_tokens` tokens each.
    """

    rank: int = 16
    alpha: float = 32.0
    align_weight: float = 0.3
    keep_weight: float = 1.0
    count_weight: float = 1.0
    motion_weight: float = 1.0
    frozen: bool = False
    apart: bool = False
    faultless: float = 0.0
    kept_texts: int = 512
    kept_tokens: int = 96
    kept_batch: int = 16
    validated: int = 512


def device() -> torch.device:
    """This process's GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class StoryTraining:
    """Three stages over one projector and one adapter, resumable like every stage."""

    def __init__(
        self,
        stories: Stories,
        validation: Stories,
        tower: Tower,
        llm: FrozenLLM,
        teacher: Teacher,
        projector: Projector,
        config: TellConfig,
        folder: Path,
        *,
        seed: int = 0,
        workers: int | None = None,
        report: Report = print,
    ) -> None:
        self.stories, self.stills = stories, stories.as_stills()
        self.validation, self.teacher = validation, teacher
        self.config, self.folder, self.seed, self.report = config, folder, seed, report
        # On a CPU where every core has its process, each of them draws for itself.
        most = ((os.cpu_count() or 2) - 1) // parallel.world()
        self.workers = most if workers is None else workers
        self.device = device()
        self.tower = tower.to(self.device)
        self.llm = llm.to(self.device)
        torch.manual_seed(seed)
        self.lora = Lora(llm.model, config.rank, config.alpha)
        self.projector = projector.to(self.device)
        self.both = nn.ModuleDict({"projector": self.projector, "lora": self.lora})
        self._kept: Tensor | None = None
        self._batches: Iterator[tuple[StoryBatch, ...]] = iter(())

    def see(self, stage: StageConfig) -> float:
        """Soft tokens become words; returns seconds."""

        def loss(number: int, rng: np.random.Generator) -> Tensor:
            parts = [self._word_loss(batch)[0] for batch in next(self._batches)]
            return torch.stack(parts).mean()

        return self._run("see", self.projector, stage, loss)

    def study(self, stage: StageConfig) -> float:
        """The LLM answers from forms as they ought to be, without any video; returns seconds.

        Where a form is often wrong, the LLM learns not to trust it, and guesses.
        """
        told, size = self.stories.emphasised(stage.emphasis), parallel.share(stage.batch)

        def loss(number: int, rng: np.random.Generator) -> Tensor:
            first = FIRST["study"] + (number * parallel.world() + parallel.rank()) * size
            batch = self.teacher([told.unseen(first + row) for row in range(size)])
            answers = self._answer_loss(self._ideal(batch), batch)
            return answers + self.config.keep_weight * self._keep_loss(rng)

        running = Stage("study", self.lora, stage, self.folder, seed=self.seed, report=self.report)
        running.run(loss, lambda: self.validate(True, False))
        return running.seconds

    def tell(self, stage: StageConfig) -> float:
        """The LLM answers from soft tokens; returns seconds."""

        def loss(number: int, rng: np.random.Generator) -> Tensor:
            parts = [self._told_loss(batch) for batch in next(self._batches)]
            return torch.stack(parts).mean() + self.config.keep_weight * self._keep_loss(rng)

        if not self.config.frozen:
            return self._run("tell", self.both, stage, loss)
        self.projector.eval().requires_grad_(False)
        return self._run("tell", self.lora, stage, loss)

    def _run(
        self,
        name: str,
        module: nn.Module,
        stage: StageConfig,
        loss: Callable[[int, np.random.Generator], Tensor],
    ) -> float:
        running = Stage(name, module, stage, self.folder, seed=self.seed, report=self.report)
        self._batches = self._drawn(name, stage, running.step)
        running.run(loss, lambda: self.validate(name == "tell", stage.stills > 0))
        return running.seconds

    def _drawn(self, name: str, stage: StageConfig, step: int) -> Iterator[tuple[StoryBatch, ...]]:
        """Clips, and stills if the recipe has them, from `step` on; they cannot share a batch,
        for the padding of a still would cost as much as a clip."""
        first, told = FIRST[name], self.stories.emphasised(stage.emphasis)
        stills = self.stills.emphasised(stage.emphasis)
        sizes = [(told, stage.batch), (stills, stage.stills)]
        parts = []
        for stories, size in sizes:
            if size:
                begin, end = (first + at * size * stage.accumulate for at in (step, stage.steps))
                parts.append(batches(stories, self.teacher, begin, end, size, self.workers))
        return zip(*parts, strict=True)

    def hidden(self, batch: StoryBatch) -> Tensor:
        """What the projector makes of a batch, `[B, tokens, width]`."""
        frames = batch.frames.to(self.device, non_blocking=True)
        count, longest = frames.shape[:2]
        flat = frames.flatten(0, 1)
        size = TOWER_FRAMES if self.device.type == "cuda" else BATCH_FRAMES
        with torch.no_grad():
            grids = [self.tower.cells(part) for part in flat.split(size)]
        features = torch.cat(grids).unflatten(0, (count, longest))  # [B, T, cells, channels]
        return self.projector.hidden(
            features, batch.times.to(self.device), batch.mask.to(self.device)
        )

    def _soft(self, hidden: Tensor, batch: StoryBatch) -> Tensor:
        """The projector's soft tokens and, after them, the names that the classifier gives."""
        return self._with_names(self.projector.words(hidden), batch)

    @torch.no_grad()
    def _ideal(self, batch: StoryBatch) -> Tensor:
        """As `_soft`, of a projector that puts every word of the form first, and no other."""
        words = self.projector.words.embeddings[batch.targets.clamp(min=0).to(self.device)]
        return self._with_names(words, batch)

    def _with_names(self, words: Tensor, batch: StoryBatch) -> Tensor:
        named = self.llm.embed(batch.labels_seen.to(self.device))
        return torch.cat([words.float(), named.float()], dim=1)

    def _word_loss(self, batch: StoryBatch) -> tuple[Tensor, Tensor]:
        hidden = self.hidden(batch)
        logits = self.projector.words.logits(hidden).float()
        wanted = batch.targets.to(self.device)
        losses = F.cross_entropy(
            logits.transpose(1, 2), wanted, ignore_index=IGNORED, reduction="none"
        )
        weights = torch.ones(wanted.shape[1], device=self.device)
        weights[: form.COUNTS] = self.config.count_weight
        spans = form.spans()
        for start, end in (spans[form.MOTION], spans[form.THEN]):
            weights[start:end] = self.config.motion_weight
        return (losses * weights).sum() / (wanted != IGNORED).sum(), hidden

    def _told_loss(self, batch: StoryBatch) -> Tensor:
        if self.config.frozen:
            with torch.no_grad():
                soft = self._soft(self.hidden(batch), batch)
                ideal = torch.rand(len(soft), 1, 1, device=self.device) < self.config.faultless
                soft = torch.where(ideal, self._ideal(batch), soft)
            return self._answer_loss(soft, batch)
        words, hidden = self._word_loss(batch)
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
        apart = _apart(parts, start, inputs.dtype) if self.teacher.apart else {}
        states = self.llm.model.get_decoder()(inputs_embeds=inputs, **apart).last_hidden_state
        said = states[:, start - 1 : -1]
        counted = labels != IGNORED
        logits = self.llm.model.get_output_embeddings()(said[counted]).float()
        rows = torch.arange(len(ids), device=self.device)[:, None].expand_as(labels)[counted]
        return logits, labels[counted], rows

    def _answer_loss(self, soft: Tensor, batch: StoryBatch) -> Tensor:
        """Mean over the tokens of all answers; conversations of like length go side by side."""
        lengths = torch.tensor([len(ids) for ids in batch.told.ids])
        size = len(lengths) if self.device.type == "cuda" else SIDE_BY_SIDE
        total, count = torch.zeros((), device=self.device), 0
        for rows in lengths.argsort().split(size):
            told = batch.told.some(rows.tolist())
            logits, wanted, _ = self._logits(soft[rows.to(self.device)], told)
            total = total + F.cross_entropy(logits, wanted, reduction="sum")
            count += len(wanted)
        return total / count

    def _keep_loss(self, rng: np.random.Generator) -> Tensor:
        """How far the LLM has gone from the bare one on texts that the bare one wrote (KL)."""
        if self._kept is None:
            self._kept = self.written()
        rows = torch.from_numpy(rng.choice(len(self._kept), self.config.kept_batch, replace=False))
        ids = self._kept[rows.to(self.device)]
        with torch.no_grad(), self.lora.off():
            wanted = self.llm.model(input_ids=ids).logits.float().log_softmax(-1)
        found = self.llm.model(input_ids=ids).logits.float().log_softmax(-1)
        return F.kl_div(
            found.flatten(0, 1), wanted.flatten(0, 1), log_target=True, reduction="batchmean"
        )

    @torch.no_grad()
    def written(self) -> Tensor:
        """Texts by the bare LLM, ids `[kept_texts, kept_tokens]`: half of them conversations."""
        encode = self.teacher.tokenizer.encode
        starts = [encode("\n"), self.teacher.before]
        torch.manual_seed(self.seed)
        texts = []
        self.llm.model.eval()
        with self.lora.off():
            for start in starts:
                ids = torch.tensor([start] * (self.config.kept_texts // 2), device=self.device)
                out = self.llm.model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=True,
                    temperature=1.0,
                    top_k=0,
                    top_p=1.0,
                    max_new_tokens=max(1, self.config.kept_tokens - len(start)),
                    min_new_tokens=max(1, self.config.kept_tokens - len(start)),
                )
                texts.append(out)
        shortest = min(text.shape[1] for text in texts)
        return torch.cat([text[:, :shortest] for text in texts])

    @torch.no_grad()
    def validate(self, answers: bool, stills: bool) -> dict[str, float]:
        """Words put first, and answers that are wholly right when each token follows the truth."""
        found = self._validate(self.validation, answers)
        if stills:
            single = self._validate(self.validation.as_stills(), answers)
            found |= {f"{name} of stills": value for name, value in single.items()}
        return found

    def _validate(self, stories: Stories, answers: bool) -> dict[str, float]:
        fields: list[np.ndarray] = []
        tasks: dict[str, list[bool]] = defaultdict(list)
        size, workers = 64, min(self.workers, 8)
        count = self.config.validated
        for batch in batches(stories, self.teacher, 0, count, size, workers, shared=False):
            with autocast(self.device):
                hidden = self.hidden(batch)
                found = self.projector.words.logits(hidden).argmax(-1).cpu()
                fields.append(_right_fields(found, batch.targets))
                if answers:
                    soft = self._soft(hidden, batch)
                    self._judge(batch, *self._logits(soft, batch.told), tasks)
        right, filled = np.sum(fields, axis=0)
        shares = right / np.maximum(1, filled)
        every = [hit for got in tasks.values() for hit in got]
        if answers:
            ordered = sorted(tasks.items())
            told = (f"{name} {np.mean(got):.3f} ({len(got)})" for name, got in ordered)
            self.report("  " + ", ".join(told))
        return {
            "fields": float(right.sum() / filled.sum()),
            "names": float(shares[form.NAME]),
            "motions": float(shares[form.MOTION]),
            **({"answers": float(np.mean(every))} if every else {}),
        }

    def _judge(
        self,
        batch: StoryBatch,
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


def _apart(parts: Tensor, start: int, dtype: torch.dtype) -> dict[str, Tensor]:
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


def _right_fields(found: Tensor, wanted: Tensor) -> np.ndarray:
    """How many forms have each field filled wholly right, and filled at all: `[2, fields]`."""
    counts = []
    for start, end in form.spans():
        truth = wanted[:, start:end]
        filled = (truth != 0).any(1)
        right = ((found[:, start:end] == truth) | (truth == IGNORED)).all(1)
        counts.append(((right & filled).sum(), filled.sum()))
    return np.array(counts).T
