"""Train a bundle on captions: features, phases `align`, `motion` and `answer`, tower, bundle.

Every step stores its result in the work folder, and is skipped if the result is there already. So
the same command continues a run that was killed.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from reellama import prompts
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.locate import find
from reellama.models.bundle import Bundle
from reellama.models.bundle_config import BundleConfig
from reellama.models.precision import compute_dtype
from reellama.models.projector.temporal_projector import Projector
from reellama.models.save_bundle import save_bundle
from reellama.models.synthetic.assets.downloads import ASSETS
from reellama.models.synthetic.rendered_clips import RenderedClips
from reellama.models.training.captions.caption_objective import CaptionObjective
from reellama.models.training.captions.clip_sources import (
    STILLS,
    TRAIN,
    VALIDATION,
    ClipSource,
    FileSource,
    ReadVideo,
    RenderedSource,
    short_hash,
)
from reellama.models.training.config import CaptionConfig
from reellama.models.training.feature_cache import FeatureCache
from reellama.models.training.frozen_llm import FrozenLLM
from reellama.models.training.initial_projector import initial_projector
from reellama.models.training.objectives import word_loss
from reellama.models.training.phases.contrastive import new_clip, train_contrastive
from reellama.models.training.trainer import (
    Loss,
    Trainer,
    TrainerConfig,
    Validate,
    batch_rows,
    format_minutes,
)
from reellama.models.vision.encoder import Tower

ReportLine = Callable[[str], None]
T = TypeVar("T")


class CaptionTraining:
    """One run of a config. The steps of `run` can also be called one by one in a Python shell.

    Args:
        config: what to train.
        work: folder for the results of the steps.
        read_video: reads the frames of the config's video files.
        report: receives a line of progress.
        assets: the download folder of picture sets.

    Raises:
        ReellamaError: the config names no tower, and has no stills to train one from.
    """

    def __init__(
        self,
        config: CaptionConfig,
        work: Path,
        *,
        read_video: ReadVideo,
        report: ReportLine,
        assets: Path = ASSETS,
    ) -> None:
        self.config = config
        self.work = work
        self.report = report
        self.phase_folder = work / config.projector.kind
        self.system = prompts.load("system")
        self.describe = prompts.load("describe")
        self.clips = RenderedClips(config.rendered, assets)
        self.source: ClipSource = (
            FileSource(Path(config.data), read_video, config.frames, self.describe)
            if config.data
            else RenderedSource(self.clips, config.stills, self.describe)
        )
        if not (config.vision_tower.name or (config.stills and not config.data)):
            raise ReellamaError(
                "a config without [vision_tower] name trains one from drawn stills: name a tower, "
                "or give `stills` and no `data`"
            )

    def run(self, out: Path) -> Bundle:
        """Do the steps that are left, and write the bundle into `out`."""
        self.phase_folder.mkdir(parents=True, exist_ok=True)
        caches = self._timed("features", self.features)
        llm = FrozenLLM(find.resolve(self.config.llm), dtype=compute_dtype())
        objective = CaptionObjective(self.source, llm, self.system, self.config)
        projector = self.new_projector(llm, objective, caches[TRAIN])
        seconds = {
            "align": self.align(projector, objective, caches),
            "motion": self.motion(projector, objective, caches),
            "answer": self.answer(projector, objective, caches),
        }
        self._timed("tower", lambda: self.train_tower(caches))
        return self.save(out, projector, objective.words, {**self._seconds(), **seconds})

    def _seconds(self) -> dict[str, float]:
        """Seconds of the steps other than phases, over all runs."""
        path = self.work / "seconds.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def _timed(self, name: str, step: Callable[[], T]) -> T:
        """Call a step and add its time to `seconds.json`."""
        started = time.perf_counter()
        result = step()
        seconds = self._seconds()
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started
        (self.work / "seconds.json").write_text(json.dumps(seconds))
        return result

    def tower(self) -> Tower:
        """The tower that the config names, or the locked trunk of the one that it trains."""
        choice = self.config.vision_tower
        if choice.name:
            return Tower.load(
                choice.name,
                pretrained=choice.pretrained,
                layer=choice.layer,
                fine_layers=choice.fine_layers,
            )
        return Tower(new_clip(self.config.contrastive))

    def train_tower(self, caches: dict[str, FeatureCache]) -> None:
        """Train the head and the text side of the config's own tower; its grid stays as it is."""
        folder = self.work / "tower"
        if self.config.vision_tower.name or (folder / "open_clip_model.safetensors").exists():
            return
        train_contrastive(
            self.config.contrastive,
            caches[STILLS],
            self.clips.still_captions(min(self.config.stills, self.config.contrastive.stills)),
            folder,
            seed=self.config.seed,
            report=self.report,
        )

    def features(self) -> dict[str, FeatureCache]:
        """The feature caches of all splits; features that are missing are computed."""
        splits = [TRAIN, VALIDATION] + ([STILLS] if self.config.stills else [])
        tower = self.tower()
        return {split: self._features(tower, split) for split in splits}

    def _features(self, tower: Tower, split: str) -> FeatureCache:
        choice = self.config.vision_tower
        tower_name = choice.name or f"efficientnet-lite0-{self.config.contrastive.image_size}"
        key = short_hash(f"{tower_name} {choice} {tower.dtype} {self.source.fingerprint(split)}")
        folder, count = self.work / "features" / f"{split}-{key}", self.source.count(split)
        both_ways = split == TRAIN and self.source.reversible
        cache = FeatureCache(folder, count, both_ways=both_ways)
        started = time.perf_counter()

        def progress(done: int, total: int) -> None:
            left = (time.perf_counter() - started) / done * (total - done)
            self.report(f"features: {split} {done}/{total}, {format_minutes(left)} left")

        cache.build(tower, lambda number: self.source.read(split, number), progress, self.report)
        cache.open()
        return cache

    def new_projector(
        self, llm: FrozenLLM, objective: CaptionObjective, cache: FeatureCache
    ) -> Projector:
        """A projector whose words are those of the training texts."""
        _, cells, channels = cache.clip(cache.usable[0])[0].shape
        return initial_projector(
            self.config.projector, llm, objective.words, cells, channels, self.config.seed
        )

    def align(
        self, projector: Projector, objective: CaptionObjective, caches: dict[str, FeatureCache]
    ) -> float:
        """Phase `align`: the i-th soft token becomes the i-th word of the description.

        Differences between frames are left to the phase `motion`. Returns the phase's seconds, as
        do `motion` and `answer`.
        """
        difference_weight = getattr(projector.pooler, "difference_weight", None)
        if difference_weight is not None:
            difference_weight.requires_grad_(False)
        targets = {split: objective.targets(split) for split in caches}
        seconds = self._align("align", projector, objective, caches, targets)
        if difference_weight is not None:
            difference_weight.requires_grad_(True)
        return seconds

    def motion(
        self, projector: Projector, objective: CaptionObjective, caches: dict[str, FeatureCache]
    ) -> float:
        """Phase `motion`: as `align`, but with differences between frames as an input, and the last
        words of the description in the last soft tokens."""
        targets = {split: objective.targets(split, self.config.tail) for split in caches}
        return self._align("motion", projector, objective, caches, targets)

    def _align(
        self,
        name: str,
        projector: Projector,
        objective: CaptionObjective,
        caches: dict[str, FeatureCache],
        targets: dict[str, Tensor],
    ) -> float:
        config = getattr(self.config, name)
        groups = [split for split in caches if split != VALIDATION]

        def loss(number: int, rng: np.random.Generator) -> Tensor:
            losses = []
            for split in groups:
                rows = self._rows(caches[split], number, config.batch)
                losses.append(
                    objective.align_loss(projector, caches[split], targets[split], rows, rng)
                )
            return torch.stack(losses).mean()

        def validate() -> dict[str, float]:
            return objective.word_accuracy(projector, caches[VALIDATION], targets[VALIDATION])

        return self._train_phase(name, projector, config, loss, validate)

    def _train_phase(
        self, name: str, projector: Projector, config: TrainerConfig, loss: Loss, validate: Validate
    ) -> float:
        folder, seed = self.phase_folder, self.config.seed
        trainer = Trainer(name, projector, config, folder, seed=seed, report=self.report)
        trainer.run(loss, validate)
        return trainer.seconds

    def answer(
        self, projector: Projector, objective: CaptionObjective, caches: dict[str, FeatureCache]
    ) -> float:
        """Phase `answer`: the frozen LLM's loss on answers, plus a share of the alignment's."""
        config, weight = self.config.answer, self.config.align_weight
        groups = [split for split in caches if split != VALIDATION]
        targets = {split: objective.targets(split, self.config.tail) for split in groups}

        def loss(number: int, rng: np.random.Generator) -> Tensor:
            words = []
            for split in groups:
                rows = self._rows(caches[split], number, config.batch)
                batch = caches[split].batch(rows, rng, self.config.fewest_frames)
                hidden = projector.hidden(batch.features, batch.times, batch.mask)
                logits = projector.word_mixture.logits(hidden).float()
                words.append(word_loss(logits, targets[split][rows]))
                if split == TRAIN:
                    examples = [objective.example(TRAIN, row, rng) for row in rows]
                    answers = objective.llm.loss(projector.word_mixture(hidden), examples)
            return answers + weight * torch.stack(words).mean()

        def validate() -> dict[str, float]:
            return objective.answer_loss(projector, caches[VALIDATION], self.report)

        return self._train_phase("answer", projector, config, loss, validate)

    def _rows(self, cache: FeatureCache, number: int, batch: int) -> list[int]:
        """The clips of step `number`."""
        rows = batch_rows(number, batch, len(cache.usable), self.config.seed)
        return [cache.usable[row] for row in rows]

    def save(
        self, out: Path, projector: Projector, word_ids: Sequence[int], seconds: dict[str, float]
    ) -> Bundle:
        """Write the bundle, with its tower if this config trained one."""
        choice = self.config.vision_tower
        config = BundleConfig(
            name=self.config.name,
            llm=self.config.llm,
            projector=projector.config,
            tower=dataclasses.replace(choice.spec(), name=choice.name or "tower"),
            frames=self.config.frames,
            system=self.system,
            describe=self.describe,
            slots=False,
            word_ids=tuple(word_ids),
            stages=(
                {
                    "config": json.loads(json.dumps(self.config.to_json())),
                    "seconds": {name: round(value) for name, value in seconds.items()},
                },
            ),
        )
        if not choice.name:
            shutil.copytree(self.work / "tower", out / "tower", dirs_exist_ok=True)
        bundle = save_bundle(out, config, projector)
        self.report(f"bundle: written to {out}")
        return bundle


def train_captions(
    config: CaptionConfig,
    out: Path,
    *,
    work: Path,
    read_video: ReadVideo,
    report: ReportLine,
    assets: Path = ASSETS,
) -> Bundle:
    """Train as `config` says and write the bundle to `out`; arguments as `CaptionTraining`."""
    return CaptionTraining(config, work, read_video=read_video, report=report, assets=assets).run(
        out
    )
