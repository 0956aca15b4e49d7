"""Train the tower itself, on drawn stills: what each of its cells shows, and which words fit.

Three losses, over a trunk that begins with ImageNet's weights:

- cells: each cell of an object predicts the words of its name;
- text: a contrastive loss of pictures and captions (CLIP, Radford et al., 2021), for `search`;
- keep: the predictions of ImageNet's classifier stay as they were (distillation, Hinton et al.,
  2015), so that photographs are still recognized.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reellama.models.precision import autocast
from reellama.models.synthetic.assets.picture_pool import UNNAMED
from reellama.models.synthetic.assets.shapes import COLOURS
from reellama.models.synthetic.dataset import Sample, SyntheticClips
from reellama.models.synthetic.rendered_clips import STILL_CAPTIONS
from reellama.models.synthetic.scene import Scene
from reellama.models.synthetic.scene_captions import with_article
from reellama.models.synthetic.synthetic_clip import SyntheticClip
from reellama.models.training import distributed
from reellama.models.training.batches import clip_batches
from reellama.models.training.phases.contrastive import (
    PREPROCESS,
    ImageHead,
    NewTowerConfig,
    contrastive_loss,
    new_clip,
    save_tower,
)
from reellama.models.training.trainer import Trainer, TrainerConfig
from reellama.models.vision.encoder import forward_grid
from reellama.models.vision.imagenet_labels import ImageNetClassifier
from reellama.models.vision.torchvision_compat import ensure_torchvision

BACKGROUND, IGNORED_WORD = 0, -1
MAX_NAME_WORDS = 5
CENTER_SHARE = 0.6  # share of an object, from its middle, whose cells have its name as target
CELL_PIXELS = 32  # of the trunk's last block
VALIDATION_STILLS = 1024


@dataclass
class StillBatch:
    """Stills side by side, with their targets."""

    pixels: Tensor  # uint8 [B, 3, side, side]
    cells: Tensor  # int64 [B, cells, MAX_NAME_WORDS]: numbers of words, IGNORED for no further one
    captions: Tensor  # int64 [B, context]


class StillCollator:
    """Collates stills; runs in the worker processes that draw."""

    def __init__(self, clips: SyntheticClips, rows: int, context: int) -> None:
        ensure_torchvision()
        import open_clip

        names = {name for pool in clips.picture_pools for name in pool.names}
        words = {word for name in names for word in name.split()} | {*COLOURS, UNNAMED}
        self.words = ["nothing", *sorted(words)]
        self._index = {word: number for number, word in enumerate(self.words)}
        self._rows = rows
        self._encode = open_clip.SimpleTokenizer(context_length=context)

    def __call__(self, samples: list[Sample]) -> StillBatch:
        pixels = torch.stack([sample["frames"][0] for sample in samples])
        cells = np.stack([self.cells(sample["clip"].scene) for sample in samples])
        rows = range(
            distributed.rank(), distributed.world_size() * len(samples), distributed.world_size()
        )
        captions = [still_caption(s["clip"], row) for s, row in zip(samples, rows, strict=True)]
        return StillBatch(pixels, torch.from_numpy(cells), self._encode(captions))

    def cells(self, scene: Scene) -> np.ndarray:
        """The words of what is in each cell: int64 `[cells, MAX_NAME_WORDS]`."""
        found = np.full((self._rows**2, MAX_NAME_WORDS), IGNORED_WORD)
        places = objects_in_cells(scene, self._rows)
        found[places == 0, 0] = BACKGROUND
        for number, actor in enumerate(scene.actors, 1):
            words = [self._index[word] for word in actor.picture.kind.split()[:MAX_NAME_WORDS]]
            found[places == number, : len(words)] = words
        return found


def objects_in_cells(scene: Scene, rows: int) -> np.ndarray:
    """Which object each of `rows` x `rows` cells shows at the beginning: int64 `[cells]`.

    1 is the scene's first actor, 0 the background; `IGNORED_WORD` near its edges.
    """
    middles = (np.arange(rows) + 0.5) / rows
    x, y = np.tile(middles, rows), np.repeat(middles, rows)
    found = np.zeros(rows * rows, np.int64)
    for number, actor in reversed([*enumerate(scene.actors, 1)]):  # the first one is on top
        pose = actor.pose(0.0)
        if not pose.visible:
            continue
        wide, tall = (pose.size / 2 * min(scene.size) / side for side in scene.size)
        away_x, away_y = np.abs(x - pose.x), np.abs(y - pose.y)
        found[(away_x < wide + 0.5 / rows) & (away_y < tall + 0.5 / rows)] = IGNORED_WORD
        found[(away_x < CENTER_SHARE * wide) & (away_y < CENTER_SHARE * tall)] = number
        found[np.argmin(away_x**2 + away_y**2)] = number
    return found


def still_caption(clip: SyntheticClip, wording: int = 0) -> str:
    """What a still shows, in one of the wordings that picture captions have."""
    kinds = dict.fromkeys(actor.picture.kind for actor in clip.scene.actors)
    if clip.is_photograph or UNNAMED in kinds:
        return "a photograph"
    things = " and ".join(map(with_article, kinds))
    return STILL_CAPTIONS[wording % len(STILL_CAPTIONS)].format(things)


class TowerWithHeads(nn.Module):
    """The CLIP that is trained, and the heads that only training needs."""

    def __init__(self, clip: nn.Module, channels: int, words: int) -> None:
        super().__init__()
        self.clip = clip
        self.head = ImageHead(clip.visual)
        self.cells = nn.Linear(channels, words)

    def train(self, mode: bool = True) -> TowerWithHeads:
        """Batch norms keep ImageNet's statistics: one picture must give the same as many do."""
        super().train(mode)
        self.clip.visual.eval()
        return self


class ImageNetHead(nn.Module):
    """An `ImageNetClassifier` in torch: the trunk's last grid `[B, cells, channels]` -> class
    logits `[B, 1000]`."""

    def __init__(self, classifier: ImageNetClassifier) -> None:
        super().__init__()
        for name, weight in classifier.weights.items():
            self.register_buffer(name.replace(".", "_"), torch.from_numpy(weight))

    def forward(self, grid: Tensor) -> Tensor:
        wide = F.relu6(F.linear(grid.float(), self.widen_weight, self.widen_bias))
        return F.linear(wide.mean(1), self.classify_weight, self.classify_bias)


class TowerPhase:
    """The phase `tower` of a stage; leaves an open_clip folder."""

    def __init__(
        self,
        stills: SyntheticClips,
        validation: SyntheticClips,
        config: NewTowerConfig,
        folder: Path,
        *,
        layers: list[int],
        device: torch.device,
        seed: int = 0,
        validated: int = VALIDATION_STILLS,
        workers: int | None = None,
        report: Callable[[str], None] = print,
    ) -> None:
        self.stills, self.validation, self.config = stills, validation, config
        self.folder, self.layers, self.device = folder, layers, device
        self.seed, self.validated, self.report = seed, validated, report
        self.workers = distributed.workers() if workers is None else workers
        torch.manual_seed(seed)
        clip = new_clip(config)
        self.before = copy.deepcopy(clip.visual).eval().requires_grad_(False)
        classifier = ImageNetClassifier.of_imagenet()
        self.labels = ImageNetHead(classifier).to(device)
        self.collator = StillCollator(stills, config.image_size // CELL_PIXELS, config.text_context)
        with torch.no_grad():
            blank = torch.zeros(1, 3, config.image_size, config.image_size)
            channels = forward_grid(clip.visual, blank, layers).shape[-1]
        self.network = TowerWithHeads(clip, channels, len(self.collator.words))
        for model in (self.network, self.before):
            model.to(device=device, memory_format=torch.channels_last)
        self._last = classifier.channels
        self._mean = torch.tensor(PREPROCESS["mean"], device=device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(PREPROCESS["std"], device=device).view(1, 3, 1, 1) * 255

    def run(self, phase: TrainerConfig, out: Path) -> float:
        """Take the steps that are left, and write the tower into `out`; returns seconds."""
        running = Trainer(
            "tower", self.network, phase, self.folder, seed=self.seed, report=self.report
        )
        begin, end = (step * phase.accumulate for step in (running.step, phase.steps))
        drawn = self._drawn(self.stills, phase.batch, begin, end)
        running.run(lambda number, rng: self.loss(next(drawn)), self.validate)
        if distributed.rank() == 0:
            clip = copy.deepcopy(self.network.clip).cpu()
            copy.deepcopy(self.network.head).cpu().write_back(clip.visual)
            save_tower(clip, self.config, out)
        return running.seconds

    def _drawn(
        self, stills: SyntheticClips, size: int, start: int, stop: int, shared: bool = True
    ) -> Iterator[StillBatch]:
        return clip_batches(
            stills, self.collator, start * size, stop * size, size, self.workers, shared=shared
        )

    def _grids(self, stills: StillBatch) -> tuple[Tensor, Tensor]:
        """Cells `[B, cells, channels]` of the trunk in training and of the original one."""
        pixels = stills.pixels.to(self.device, non_blocking=True)
        pixels = ((pixels.float() - self._mean) / self._std).contiguous(
            memory_format=torch.channels_last
        )
        with torch.no_grad():
            before = forward_grid(self.before, pixels, self.layers[-1:])
        return forward_grid(self.network.clip.visual, pixels, self.layers), before

    def loss(self, stills: StillBatch) -> Tensor:
        """The sum of the three; its mean over processes is that of one process with all stills."""
        grid, before = self._grids(stills)
        last = grid[..., -self._last :]
        captions = stills.captions.to(self.device)
        clip = self.network.clip
        images, texts = self.network.head(last).float(), clip.encode_text(captions, normalize=True)
        # The captions of all processes are negatives.
        images, texts, every = map(distributed.gather, (images, texts.float(), captions))
        same = (every[:, None] == every[None]).all(-1)
        scale = clip.logit_scale.exp().clamp(max=100)
        text = contrastive_loss(images, texts, scale, same)
        wanted = self.labels(before).float().log_softmax(-1)
        found = self.labels(last).float().log_softmax(-1)
        keep = F.kl_div(found, wanted, log_target=True, reduction="batchmean")
        return self._cell_loss(grid, stills) + text + keep

    def _cell_loss(self, grid: Tensor, stills: StillBatch) -> Tensor:
        """Cross-entropy with a uniform target over the words of each cell."""
        wanted = stills.cells.to(self.device)
        counted = wanted[..., 0] != IGNORED_WORD
        likely = (
            self.network.cells(grid[counted]).float().log_softmax(-1)
        )  # [cells that count, words]
        words = wanted[counted]
        given = words != IGNORED_WORD
        each = likely.gather(1, words.clamp(min=0)) * given
        # Background is most of a picture, and is learned early.
        weight = torch.where(words[:, 0] == BACKGROUND, 0.1, 1.0)
        return -(each.sum(1) / given.sum(1) * weight).sum() / distributed.mean(weight.sum())

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Shares of objects' cells whose likeliest words are the name, and of pictures whose
        ImageNet class is the original one."""
        named = things = kept = count = 0
        size = min(64, self.validated)
        for stills in self._drawn(self.validation, size, 0, self.validated // size, shared=False):
            with autocast(self.device):
                grid, before = self._grids(stills)
                wanted = stills.cells.to(self.device)
                counted = wanted[..., 0] > BACKGROUND
                words = wanted[counted]
                scores = self.network.cells(grid[counted])
            given = words != IGNORED_WORD
            lowest = scores.gather(1, words.clamp(min=0)).masked_fill(~given, torch.inf).amin(1)
            named += int(((scores > lowest[:, None]).sum(1) < given.sum(1)).sum())
            things += len(words)
            now = self.labels(grid[..., -self._last :]).argmax(-1)
            kept += int((now == self.labels(before).argmax(-1)).sum())
            count += len(now)
        return {"named": named / max(1, things), "kept": kept / count}
