"""The data set of rendered clips of one or two actors for caption training (`[rendered]`).

`dataset.py` has the other data set of drawn clips, that of all scenarios (`[synthetic]`). Clips are
not stored. Each is drawn from (seed, split, number) in about 5 ms, so that clip i of a split is
always the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from reellama.models.synthetic.assets.backgrounds import load_photos
from reellama.models.synthetic.assets.downloads import ASSETS
from reellama.models.synthetic.assets.pictures import (
    Picture,
    check_styles,
    load_kinds,
    load_pictures,
    shape_kinds,
)
from reellama.models.synthetic.render import frame_times, render
from reellama.models.synthetic.scene import Scene
from reellama.models.synthetic.scene_captions import scene_caption, scene_questions, with_article
from reellama.models.synthetic.scene_generation import random_scene

RENDERED_SPLITS = ("train", "validation", "test")
# (width, height) of square, 4:3 and 16:9 video with a short side of 192 pixels.
SIZES = ((192, 192), (256, 192), (344, 192))
FIRST_STILL = 10_000_000  # number of the first still; clips have smaller ones
FIRST_BACKWARDS = 20_000_000  # number of the first random seed of reversed texts
# Captions of stills, worded as in image-text data.
STILL_CAPTIONS = (
    "{}",
    "a picture of {}",
    "a photo of {}",
    "an image with {}",
    "{} on a background",
)


@dataclass(frozen=True)
class RenderedConfig:
    """The `[rendered]` table of a training config that draws its own clips."""

    styles: tuple[str, ...] = ("noto", "openmoji", "shapes")
    style_weights: tuple[float, ...] = (0.45, 0.45, 0.1)
    frames: int = 8
    p_two: float = 0.25  # probability of a second actor
    clips: int = 9_000  # of the split "train"
    validation: int = 500  # clips of the split "validation"
    seed: int = 0

    def __post_init__(self) -> None:
        check_styles(self.styles, self.style_weights)


@dataclass(frozen=True)
class RenderedClip:
    """One clip with its ground truth; `draw` renders its frames."""

    scene: Scene
    texts: tuple[tuple[str, str], ...]  # (question, answer); the first is a description

    @property
    def caption(self) -> str:
        return scene_caption(self.scene)

    def draw(self, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """uint8 `[frames, H, W, 3]` and their seconds `[frames]`."""
        times = frame_times(self.scene.duration, frames)
        return render(self.scene, times), times


class RenderedClips:
    """The clips of all splits; `assets` is the download folder of picture sets."""

    def __init__(self, config: RenderedConfig, assets: Path = ASSETS) -> None:
        self.config = config
        self.assets = assets

    @cached_property
    def pictures(self) -> list[list[Picture]]:
        """Pictures by style, in the order of the config."""
        return [load_pictures((style,), self.assets) for style in self.config.styles]

    @cached_property
    def photos(self) -> list[np.ndarray]:
        return load_photos()

    @cached_property
    def kinds(self) -> list[str]:
        return [kind.name for kind in load_kinds()] + shape_kinds()

    def rng(self, split: str, number: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, RENDERED_SPLITS.index(split), number])

    def clip(self, split: str, number: int, **fixed: Any) -> RenderedClip:
        """Clip `number` of a split. fixed: arguments of `random_scene`, such as a motion."""
        rng = self.rng(split, number)
        scene = self._scene(rng, self.config.p_two, **fixed)
        return RenderedClip(scene, tuple(scene_questions(scene, rng, self.kinds)))

    def backwards(self, split: str, number: int) -> RenderedClip:
        """Clip `number` described as if played backwards: for its texts, not for drawing."""
        scene = self.clip(split, number).scene.described_backwards()
        rng = self.rng(split, FIRST_BACKWARDS + number)
        return RenderedClip(scene, tuple(scene_questions(scene, rng, self.kinds)))

    def _scene(self, rng: np.random.Generator, p_two: float, **fixed: Any) -> Scene:
        style = rng.choice(len(self.pictures), p=self.config.style_weights)
        size = SIZES[int(rng.integers(len(SIZES)))]
        pictures = self.pictures[style]
        return random_scene(rng, pictures, photos=self.photos, size=size, p_two=p_two, **fixed)

    def still(self, number: int) -> RenderedClip:
        """Still `number`: a scene whose main actor does not move. No clip shows it."""
        rng = self.rng("train", FIRST_STILL + number)
        scene = self._scene(rng, p_two=0.15, motion="stays still")
        return RenderedClip(scene, ())

    def still_captions(self, count: int) -> list[str]:
        """Captions of the first `count` stills, worded as in image-text data."""
        captions = []
        for number in range(count):
            actors = self.still(number).scene.actors
            things = " and ".join(with_article(actor.picture.kind) for actor in actors)
            captions.append(STILL_CAPTIONS[number % len(STILL_CAPTIONS)].format(things))
        return captions
