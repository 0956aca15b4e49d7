"""The phase `tower`: train the whole visual tower on synthetic stills, from ImageNet's weights.

It has three losses:

- cells: each cell of an object predicts the words of the object's name;
- text: a contrastive loss of pictures and captions (CLIP, Radford et al., 2021), for `search`;
- keep: the predictions of ImageNet's classifier must stay the same (distillation, Hinton et al.,
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

BACKGROUND, IGNORED_WORD = 0, -1  # numbers of words
MAX_NAME_WORDS = 5
CENTER_SHARE = 0.6  # cells in this central share of an object's width and height get its name
CELL_PIXELS = 32  # side of a cell of the trunk's last block
VALIDATION_STILLS = 1024


@dataclass
class StillBatch:
    """A batch of stills with their targets."""

    pixels: Tensor  # uint8 [B, 3, side, side]
    cells: Tensor  # int64 [B, cells, MAX_NAME_WORDS]: words of the names, then IGNORED_WORD
    captions: Tensor  # int64 [B, context]: token ids


class StillCollator:
    """Collates stills, in the worker processes that draw them.

    rows: of the tower's grid, which is square. context: tokens of a caption.
    """

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
        """The words of the object in each cell: int64 `[cells, MAX_NAME_WORDS]`."""
        targets = np.full((self._rows**2, MAX_NAME_WORDS), IGNORED_WORD)
        objects = objects_in_cells(scene, self._rows)
        targets[objects == 0, 0] = BACKGROUND
        for number, actor in enumerate(scene.actors, 1):
            words = [self._index[word] for word in actor.picture.kind.split()[:MAX_NAME_WORDS]]
            targets[objects == number, : len(words)] = words
        return targets


def objects_in_cells(scene: Scene, rows: int) -> np.ndarray:
    """The object that each of `rows` x `rows` cells shows at the start: int64 `[cells]`.

    1 is the scene's first actor, 0 the background. `IGNORED_WORD` marks cells at an object's edge.
    """
    middles = (np.arange(rows) + 0.5) / rows
    x, y = np.tile(middles, rows), np.repeat(middles, rows)
    objects = np.zeros(rows * rows, np.int64)
    for number, actor in reversed([*enumerate(scene.actors, 1)]):  # the first one is on top
        pose = actor.pose(0.0)
        if not pose.visible:
            continue
        wide, tall = (pose.size / 2 * min(scene.size) / side for side in scene.size)
        dx, dy = np.abs(x - pose.x), np.abs(y - pose.y)
        objects[(dx < wide + 0.5 / rows) & (dy < tall + 0.5 / rows)] = IGNORED_WORD
        objects[(dx < CENTER_SHARE * wide) & (dy < CENTER_SHARE * tall)] = number
        objects[np.argmin(dx**2 + dy**2)] = number  # at least one cell, however small the object
    return objects


def still_caption(clip: SyntheticClip, wording: int = 0) -> str:
    """A caption of a still in one of `STILL_CAPTIONS`, chosen by the number `wording`."""
    kinds = dict.fromkeys(actor.picture.kind for actor in clip.scene.actors)
    if clip.is_photograph or UNNAMED in kinds:
        return "a photograph"
    things = " and ".join(map(with_article, kinds))
    return STILL_CAPTIONS[wording % len(STILL_CAPTIONS)].format(things)


class TowerWithHeads(nn.Module):
    """The CLIP that is trained, with two heads that only training needs."""

    def __init__(self, clip: nn.Module, channels: int, words: int) -> None:
        super().__init__()
        self.clip = clip
        self.head = ImageHead(clip.visual)
        self.cells = nn.Linear(channels, words)

    def train(self, mode: bool = True) -> TowerWithHeads:
        """As usual, except that the image tower stays in inference mode: its batch norms keep
        ImageNet's statistics."""
        super().train(mode)
        self.clip.visual.eval()
        return self


class ImageNetHead(nn.Module):
    """`ImageNetClassifier.logits` in torch: the trunk's last grid `[B, cells, channels]` -> class
    logits `[B, 1000]`."""

    def __init__(self, classifier: ImageNetClassifier) -> None:
        super().__init__()
        for name, weight in classifier.weights.items():
            self.register_buffer(name.replace(".", "_"), torch.from_numpy(weight))

    def forward(self, grid: Tensor) -> Tensor:
        wide = F.relu6(F.linear(grid.float(), self.widen_weight, self.widen_bias))
        return F.linear(wide.mean(1), self.classify_weight, self.classify_bias)


class TowerPhase:
    """The phase `tower`; a run continues from its last checkpoint.

    Args:
        stills, validation: synthetic stills of training and of validation.
        config: sizes of the tower.
        folder: for checkpoints and the log.
        layers: the trunk's blocks whose outputs are the grid.
        device: to train on.
        validated: number of stills in a validation.
        workers: number of processes that draw stills; None for `distributed.workers`.
    """

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
        self.imagenet = copy.deepcopy(clip.visual).eval().requires_grad_(False)
        classifier = ImageNetClassifier.of_imagenet()
        self.labels = ImageNetHead(classifier).to(device)
        self.collator = StillCollator(stills, config.image_size // CELL_PIXELS, config.text_context)
        with torch.no_grad():
            blank = torch.zeros(1, 3, config.image_size, config.image_size)
            channels = forward_grid(clip.visual, blank, layers).shape[-1]
        self.network = TowerWithHeads(clip, channels, len(self.collator.words))
        for model in (self.network, self.imagenet):
            model.to(device=device, memory_format=torch.channels_last)
        self._last = classifier.channels  # width of the trunk's last block in the grid
        self._mean = torch.tensor(PREPROCESS["mean"], device=device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(PREPROCESS["std"], device=device).view(1, 3, 1, 1) * 255

    def run(self, phase: TrainerConfig, out: Path) -> float:
        """Take the steps that are left, and write the tower into `out`, an open_clip folder;
        returns seconds."""
        trainer = Trainer(
            "tower", self.network, phase, self.folder, seed=self.seed, report=self.report
        )
        begin, end = (step * phase.accumulate for step in (trainer.step, phase.steps))
        batches = self._batches(self.stills, phase.batch, begin, end)
        trainer.run(lambda number, rng: self.loss(next(batches)), self.validate)
        if distributed.rank() == 0:
            clip = copy.deepcopy(self.network.clip).cpu()
            copy.deepcopy(self.network.head).cpu().write_back(clip.visual)
            save_tower(clip, self.config, out)
        return trainer.seconds

    def _batches(
        self, stills: SyntheticClips, size: int, start: int, stop: int, shared: bool = True
    ) -> Iterator[StillBatch]:
        return clip_batches(
            stills, self.collator, start * size, stop * size, size, self.workers, shared=shared
        )

    def _grids(self, stills: StillBatch) -> tuple[Tensor, Tensor]:
        """Grids `[B, cells, channels]` of the trunk in training and of ImageNet's trunk."""
        pixels = stills.pixels.to(self.device, non_blocking=True)
        pixels = ((pixels.float() - self._mean) / self._std).contiguous(
            memory_format=torch.channels_last
        )
        with torch.no_grad():
            imagenet = forward_grid(self.imagenet, pixels, self.layers[-1:])
        return forward_grid(self.network.clip.visual, pixels, self.layers), imagenet

    def loss(self, stills: StillBatch) -> Tensor:
        """The sum of the three losses. Its mean over processes equals the loss of one process with
        all stills."""
        grid, imagenet = self._grids(stills)
        last = grid[..., -self._last :]
        captions = stills.captions.to(self.device)
        clip = self.network.clip
        images, texts = self.network.head(last).float(), clip.encode_text(captions, normalize=True)
        # The captions of all processes are negatives.
        images, texts, captions = map(distributed.gather, (images, texts.float(), captions))
        same = (captions[:, None] == captions[None]).all(-1)
        scale = clip.logit_scale.exp().clamp(max=100)
        text = contrastive_loss(images, texts, scale, same)
        target = self.labels(imagenet).float().log_softmax(-1)
        predicted = self.labels(last).float().log_softmax(-1)
        keep = F.kl_div(predicted, target, log_target=True, reduction="batchmean")
        return self._cell_loss(grid, stills) + text + keep

    def _cell_loss(self, grid: Tensor, stills: StillBatch) -> Tensor:
        """Cross-entropy with a uniform target over the words of each cell."""
        targets = stills.cells.to(self.device)  # [B, cells, MAX_NAME_WORDS]
        counted = targets[..., 0] != IGNORED_WORD
        log_probabilities = self.network.cells(grid[counted]).float().log_softmax(-1)  # [N, words]
        words = targets[counted]  # [N, MAX_NAME_WORDS]
        is_word = words != IGNORED_WORD
        of_words = log_probabilities.gather(1, words.clamp(min=0)) * is_word
        # Background is most of a picture, and is learned early.
        weight = torch.where(words[:, 0] == BACKGROUND, 0.1, 1.0)
        return -(of_words.sum(1) / is_word.sum(1) * weight).sum() / distributed.mean(weight.sum())

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """`named`, the share of objects' cells whose most likely words are the name, and `kept`,
        the share of pictures whose ImageNet class has not changed."""
        named = n_cells = kept = n_pictures = 0
        size = min(64, self.validated)
        for stills in self._batches(self.validation, size, 0, self.validated // size, shared=False):
            with autocast(self.device):
                grid, imagenet = self._grids(stills)
                targets = stills.cells.to(self.device)
                counted = targets[..., 0] > BACKGROUND
                words = targets[counted]  # [N, MAX_NAME_WORDS]
                scores = self.network.cells(grid[counted])  # [N, words]
            is_word = words != IGNORED_WORD
            lowest = scores.gather(1, words.clamp(min=0)).masked_fill(~is_word, torch.inf).amin(1)
            named += int(((scores > lowest[:, None]).sum(1) < is_word.sum(1)).sum())
            n_cells += len(words)
            classes = self.labels(grid[..., -self._last :]).argmax(-1)
            kept += int((classes == self.labels(imagenet).argmax(-1)).sum())
            n_pictures += len(classes)
        return {"named": named / max(1, n_cells), "kept": kept / n_pictures}
