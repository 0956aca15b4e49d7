"""Train the tower itself, on drawn stills: what each of its cells shows, and which words fit.

Three losses, over a trunk that begins with ImageNet's weights:

- cells: the words of a thing's name, in the cells where it is, so that names stand in the grid;
- text: picture and caption find each other (CLIP, Radford et al., 2021), so that `search` works;
- keep: ImageNet's classifier says what it said before (distillation, Hinton et al., 2015), so that
  photographs are still known.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import parallel
from models.captions import with_article
from models.contrastive import (
    PREPROCESS,
    ContrastiveConfig,
    ImageHead,
    contrastive_loss,
    new_clip,
    save_tower,
)
from models.labels import Labels
from models.optimise import Stage, StageConfig
from models.precision import autocast
from models.rendered import STILL_CAPTIONS
from models.scene import Scene
from models.shapes import COLOURS
from models.stream import Sample, Stories, batches
from models.telling import UNKNOWN, Story
from models.torchvision_compat import ensure_torchvision
from models.tower import forward_grid

NOTHING, IGNORED = 0, -1
NAME_WORDS = 5  # words of a name at most
INNER = 0.6  # share of a thing, from its middle, whose cells must name it
CELL_PIXELS = 32  # of the trunk's last block
VALIDATED = 1024  # stills


@dataclass
class Looks:
    """Stills side by side, with what is to be learned of them."""

    pixels: Tensor  # uint8 [B, 3, side, side]
    cells: Tensor  # int64 [B, cells, NAME_WORDS]: numbers of words, IGNORED for no further one
    captions: Tensor  # int64 [B, context]


class Teller:
    """Puts stills into words; runs in the worker processes that draw."""

    def __init__(self, stories: Stories, rows: int, context: int) -> None:
        ensure_torchvision()
        import open_clip

        names = {name for cast in stories.casts for name in cast.names}
        words = {word for name in names for word in name.split()} | {*COLOURS, UNKNOWN}
        self.words = ["nothing", *sorted(words)]
        self._index = {word: number for number, word in enumerate(self.words)}
        self._rows = rows
        self._encode = open_clip.SimpleTokenizer(context_length=context)

    def __call__(self, samples: list[Sample]) -> Looks:
        pixels = torch.stack([sample["frames"][0] for sample in samples])
        cells = np.stack([self.cells(sample["story"].scene) for sample in samples])
        captions = [caption(sample["story"], number) for number, sample in enumerate(samples)]
        return Looks(pixels, torch.from_numpy(cells), self._encode(captions))

    def cells(self, scene: Scene) -> np.ndarray:
        """The words of what is in each cell: int64 `[cells, NAME_WORDS]`."""
        found = np.full((self._rows**2, NAME_WORDS), IGNORED)
        places = things_in_cells(scene, self._rows)
        found[places == 0, 0] = NOTHING
        for number, actor in enumerate(scene.actors, 1):
            words = [self._index[word] for word in actor.picture.kind.split()[:NAME_WORDS]]
            found[places == number, : len(words)] = words
        return found


def things_in_cells(scene: Scene, rows: int) -> np.ndarray:
    """Which thing each of `rows` x `rows` cells shows at the beginning: int64 `[cells]`.

    1 is the scene's first actor, 0 the background; `IGNORED` where it is hard to tell.
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
        found[(away_x < wide + 0.5 / rows) & (away_y < tall + 0.5 / rows)] = IGNORED
        found[(away_x < INNER * wide) & (away_y < INNER * tall)] = number
        found[np.argmin(away_x**2 + away_y**2)] = number
    return found


def caption(story: Story, wording: int = 0) -> str:
    """What a still shows, in one of the wordings that picture captions have."""
    kinds = dict.fromkeys(actor.picture.kind for actor in story.scene.actors)
    if story.photograph or UNKNOWN in kinds:
        return "a photograph"
    things = " and ".join(map(with_article, kinds))
    return STILL_CAPTIONS[wording % len(STILL_CAPTIONS)].format(things)


class Eyes(nn.Module):
    """The CLIP that learns, and what is only needed while it does."""

    def __init__(self, clip: nn.Module, channels: int, words: int) -> None:
        super().__init__()
        self.clip = clip
        self.head = ImageHead(clip.visual)
        self.cells = nn.Linear(channels, words)

    def train(self, mode: bool = True) -> Eyes:
        """Batch norms keep ImageNet's statistics, for a tower must see one picture as it sees
        many."""
        super().train(mode)
        self.clip.visual.eval()
        return self


class Looking:
    """The stage `look` of a recipe; leaves an open_clip folder."""

    def __init__(
        self,
        stills: Stories,
        validation: Stories,
        config: ContrastiveConfig,
        folder: Path,
        *,
        layers: list[int],
        device: torch.device,
        seed: int = 0,
        validated: int = VALIDATED,
        report: Callable[[str], None] = print,
    ) -> None:
        self.stills, self.validation, self.config = stills, validation, config
        self.folder, self.layers, self.device = folder, layers, device
        self.seed, self.validated, self.report = seed, validated, report
        self.workers = max(1, (os.cpu_count() or 2) - 1)
        torch.manual_seed(seed)
        clip = new_clip(config)
        self.before = copy.deepcopy(clip.visual).eval().requires_grad_(False)
        self.labels = Labels.of_imagenet().to(device)
        self.teller = Teller(stills, config.image_size // CELL_PIXELS, config.text_context)
        with torch.no_grad():
            blank = torch.zeros(1, 3, config.image_size, config.image_size)
            channels = forward_grid(clip.visual, blank, layers).shape[-1]
        self.eyes = Eyes(clip, channels, len(self.teller.words))
        for model in (self.eyes, self.before):
            model.to(device=device, memory_format=torch.channels_last)
        self._last = self.labels.channels
        self._mean = torch.tensor(PREPROCESS["mean"], device=device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(PREPROCESS["std"], device=device).view(1, 3, 1, 1) * 255

    def run(self, stage: StageConfig, out: Path) -> float:
        """Take the steps that are left, and write the tower into `out`; returns seconds."""
        running = Stage("look", self.eyes, stage, self.folder, seed=self.seed, report=self.report)
        drawn = self._drawn(self.stills, stage.batch, running.step, stage.steps)
        running.run(lambda number, rng: self.loss(next(drawn)), self.validate)
        if parallel.rank() == 0:
            clip = copy.deepcopy(self.eyes.clip).cpu()
            copy.deepcopy(self.eyes.head).cpu().write_back(clip.visual)
            save_tower(clip, self.config, out)
        return running.seconds

    def _drawn(
        self, stills: Stories, size: int, start: int, stop: int, shared: bool = True
    ) -> Iterator[Looks]:
        return batches(
            stills, self.teller, start * size, stop * size, size, self.workers, shared=shared
        )

    def _grids(self, looks: Looks) -> tuple[Tensor, Tensor]:
        """Cells `[B, cells, channels]` of the trunk that learns and of the one before."""
        pixels = looks.pixels.to(self.device, non_blocking=True)
        pixels = ((pixels.float() - self._mean) / self._std).contiguous(
            memory_format=torch.channels_last
        )
        with torch.no_grad():
            before = forward_grid(self.before, pixels, self.layers[-1:])
        return forward_grid(self.eyes.clip.visual, pixels, self.layers), before

    def loss(self, looks: Looks) -> Tensor:
        """The sum of the three."""
        grid, before = self._grids(looks)
        last = grid[..., -self._last :]
        captions = looks.captions.to(self.device)
        same = (captions[:, None] == captions[None]).all(-1)
        clip = self.eyes.clip
        images, texts = self.eyes.head(last).float(), clip.encode_text(captions, normalize=True)
        scale = clip.logit_scale.exp().clamp(max=100)
        text = contrastive_loss(images, texts.float(), scale, same)
        wanted = self.labels.logits(before).float().log_softmax(-1)
        found = self.labels.logits(last).float().log_softmax(-1)
        keep = F.kl_div(found, wanted, log_target=True, reduction="batchmean")
        return self._cell_loss(grid, looks) + text + keep

    def _cell_loss(self, grid: Tensor, looks: Looks) -> Tensor:
        """Cross-entropy of the words of each cell, all as likely."""
        wanted = looks.cells.to(self.device)
        counted = wanted[..., 0] != IGNORED
        likely = self.eyes.cells(grid[counted]).float().log_softmax(-1)  # [cells that count, words]
        words = wanted[counted]
        given = words != IGNORED
        each = likely.gather(1, words.clamp(min=0)) * given
        # Background is most of a picture, and is soon learned.
        weight = torch.where(words[:, 0] == NOTHING, 0.1, 1.0)
        return -(each.sum(1) / given.sum(1) * weight).sum() / weight.sum()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Cells of things whose likeliest words are their name, and pictures that the classifier
        takes for what it took them for before."""
        named = things = kept = count = 0
        size = min(64, self.validated)
        for looks in self._drawn(self.validation, size, 0, self.validated // size, shared=False):
            with autocast(self.device):
                grid, before = self._grids(looks)
                wanted = looks.cells.to(self.device)
                counted = wanted[..., 0] > NOTHING
                words = wanted[counted]
                scores = self.eyes.cells(grid[counted])
            given = words != IGNORED
            lowest = scores.gather(1, words.clamp(min=0)).masked_fill(~given, torch.inf).amin(1)
            named += int(((scores > lowest[:, None]).sum(1) < given.sum(1)).sum())
            things += len(words)
            now = self.labels.logits(grid[..., -self._last :]).argmax(-1)
            kept += int((now == self.labels.logits(before).argmax(-1)).sum())
            count += len(now)
        return {"named": named / max(1, things), "kept": kept / count}
