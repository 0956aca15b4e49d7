"""Stories drawn as they are needed: an endless data set in which no clip comes twice.

Sample `number` is always the same, so a run that resumes sees what it would have seen.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from gguf_tools.errors import ReellamaError
from models.prompt_format import multiple_choice
from models.synthetic.assets.backgrounds import load_photos, load_wallpapers
from models.synthetic.assets.photographs import load_cut_outs
from models.synthetic.assets.picture_pool import PicturePool
from models.synthetic.assets.pictures import (
    ObjectKind,
    check_styles,
    load_kinds,
    load_pictures,
    shape_kinds,
)
from models.synthetic.codec_augmentation import render_through_codec
from models.synthetic.render import frame_times, render
from models.synthetic.scenarios.registry import random_clip
from models.synthetic.scenarios.stills import random_still_clip
from models.synthetic.scene_captions import DESCRIBE_QUESTIONS
from models.synthetic.slot_targets import slot_texts
from models.synthetic.synthetic_clip import SyntheticClip

HELD_OUT_EVERY = 10  # every tenth kind, in the order of kinds.csv, is never drawn in training
SPLIT_SEEDS = {"train": 0, "validation": 1, "test": 2}
CODEC_SHARE = 0.45  # share of the clips that go through a video file
JPEG_SHARE = 0.2  # share of the others whose frames go through JPEG
MAX_TURNS = 5


class Sample(TypedDict):
    """One clip: frames `[T, 3, side, side]` uint8, seconds `[T]`, and a conversation about it."""

    frames: Tensor
    times: Tensor
    slots: list[str]  # `models.projector.slots`: what the soft tokens are to say
    turns: list[tuple[str, str]]
    clip: SyntheticClip
    imagenet_classes: list[int]  # classes that the classifier is made to name


@dataclass(frozen=True)
class SyntheticConfig:
    """The `[stories]` table of a recipe."""

    styles: tuple[str, ...] = ("noto", "openmoji", "shapes")
    style_weights: tuple[float, ...] = (0.45, 0.45, 0.1)
    frames: int = 16
    fewest_frames: int = 10
    seed: int = 0
    whole: bool = False  # all that a story has to ask is asked, as is right where turns are `apart`

    def __post_init__(self) -> None:
        check_styles(self.styles, self.style_weights)
        if not 1 <= self.fewest_frames <= self.frames:
            raise ReellamaError(
                f"fewest_frames must be from 1 to frames, {self.frames}, not {self.fewest_frames}"
            )


def all_kinds() -> list[ObjectKind]:
    """Everything with a picture in the emoji styles, flags included."""
    return [*load_kinds(), *load_kinds("flags")]


def held_out_kinds() -> set[str]:
    """The kinds that training never draws."""
    return {kind.name for kind in all_kinds()[::HELD_OUT_EVERY]}


@functools.cache
def load_picture_pools(
    styles: Sequence[str], assets: Path, kinds: str, training: bool
) -> list[PicturePool]:
    """The pictures of each style; what only `training` may see is left out of tests."""
    photos = load_photos() + (load_wallpapers(assets) if training else [])
    unnamed = load_cut_outs(assets) if training else []
    held_out = held_out_kinds()
    known = [kind.name for kind in all_kinds() if kind.name not in held_out]
    names = sorted(held_out) if kinds == "new" else [*known, *shape_kinds()]
    return [
        PicturePool(load_pictures((style,), assets, names), names, photos, unnamed)
        for style in styles
    ]


class SyntheticClips(Dataset[Sample]):
    """Samples of a split, numbered without end; `side` is the tower's picture in pixels.

    kinds: "known", those of training, or "new", those that training never draws.
    stills: single pictures (`models.synthetic.scenarios.stills`) in place of clips.
    emphasis: how many times as often as usual a story is told, by its name.
    """

    def __init__(
        self,
        config: SyntheticConfig,
        side: int,
        assets: Path,
        *,
        split: str = "train",
        kinds: str = "known",
        stills: bool = False,
        photos: Sequence[np.ndarray] | None = None,
        sampling_weights: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.config, self.side, self.assets = config, side, assets
        self.split, self.kinds, self.stills = split, kinds, stills
        self._photos, self.sampling_weights = photos, dict(sampling_weights)

    def as_stills(self) -> SyntheticClips:
        """Stills of the same pictures."""
        return SyntheticClips(
            self.config, self.side, self.assets,
            split=self.split, kinds=self.kinds, stills=True, photos=self._photos,
        )  # fmt: skip

    def with_sampling_weights(self, sampling_weights: Mapping[str, float]) -> SyntheticClips:
        """The same, with some stories told more often."""
        return SyntheticClips(
            self.config, self.side, self.assets, split=self.split, kinds=self.kinds,
            stills=self.stills, photos=self._photos, sampling_weights=sampling_weights,
        )  # fmt: skip

    @property
    def picture_pools(self) -> list[PicturePool]:
        """One for each style."""
        found = load_picture_pools(
            self.config.styles, self.assets, self.kinds, self.split != "test"
        )
        if self._photos is None:
            return found
        return [replace(pool, photos=self._photos) for pool in found]

    def picture_pool(self, number: int) -> PicturePool:
        """The pictures of story `number`: those of one style."""
        rng = self._rng(number, 2)
        return self.picture_pools[
            int(rng.choice(len(self.picture_pools), p=self.config.style_weights))
        ]

    def clip(
        self, number: int, name: str | None = None, pool: PicturePool | None = None
    ) -> SyntheticClip:
        """Story `number`; by `name`, or with a cast, if one is wanted."""
        pool = pool or self.picture_pool(number)
        if self.stills:
            return random_still_clip(self._rng(number), pool, self.sampling_weights)
        return random_clip(self._rng(number), pool, name, self.sampling_weights)

    def _rng(self, number: int, part: int = 0) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, SPLIT_SEEDS[self.split], number, part])

    def __getitem__(self, number: int) -> Sample:
        clip = self.clip(number)
        rng = self._rng(number, 1)
        training = self.split == "train"
        frames, times = self._draw(clip, rng, training)
        return Sample(
            frames=torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous(),
            times=torch.from_numpy(times.astype(np.float32)),
            slots=slot_texts(clip),
            turns=conversation(clip, rng, 0.25 if self.stills else 0.35, self.config.whole),
            clip=clip,
            imagenet_classes=list(clip.imagenet_classes),
        )

    def without_video(self, number: int) -> Sample:
        """Sample `number` without its video: one black point, for who looks at the form alone."""
        clip = self.clip(number)
        return Sample(
            frames=torch.zeros(1, 3, 1, 1, dtype=torch.uint8),
            times=torch.zeros(1),
            slots=slot_texts(clip),
            turns=conversation(clip, self._rng(number, 1), whole=self.config.whole),
            clip=clip,
            imagenet_classes=list(clip.imagenet_classes),
        )

    def _draw(
        self, clip: SyntheticClip, rng: np.random.Generator, training: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        count, duration = self.config.frames, clip.scene.duration
        if self.stills:
            count, training = 1, False
        times = frame_times(duration, count)
        if training:
            if rng.random() < 0.4:
                count = int(rng.integers(self.config.fewest_frames, count + 1))
                times = frame_times(duration, count)
            times = times + rng.uniform(-0.3, 0.3) * duration / count
            if rng.random() < CODEC_SHARE:
                shown, times = render_through_codec(rng, clip.scene, times)
                return np.stack([_squash(f, self.side, None) for f in shown]), times
        quality = int(rng.integers(25, 90)) if rng.random() < JPEG_SHARE else None
        frames = [_squash(f, self.side, quality) for f in render(clip.scene, times)]
        return np.stack(frames), times


def _squash(frame: np.ndarray, side: int, quality: int | None) -> np.ndarray:
    """A frame as the tower gets it: uint8 `[side, side, 3]`."""
    image = Image.fromarray(frame)
    if quality is not None:
        packed = BytesIO()
        image.save(packed, "jpeg", quality=quality)
        image = Image.open(packed)
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def conversation(
    clip: SyntheticClip, rng: np.random.Generator, described: float = 0.35, whole: bool = False
) -> list[tuple[str, str]]:
    """Questions and answers in random order, some with choices.

    described: how often the description comes first.
    whole: every question is asked, up to the usual most. Else many conversations are short, for an
        earlier turn tells much of what a later one asks for.
    """
    turns = []
    for asked in clip.questions:
        if len(asked.choices) > 1 and rng.random() < 0.5:
            mixed = [asked.choices[i] for i in rng.permutation(len(asked.choices))]
            turns.append((multiple_choice(asked.question, mixed), asked.answer))
        else:
            turns.append((asked.question, asked.sentence))
    most = MAX_TURNS - 1 if rng.random() < 0.6 or whole else 1
    picked = [turns[i] for i in rng.permutation(len(turns))[:most]]
    question = (
        DESCRIBE_QUESTIONS[0]
        if rng.random() < 0.6
        else DESCRIBE_QUESTIONS[int(rng.integers(len(DESCRIBE_QUESTIONS)))]
    )
    description = (question, clip.caption)
    if rng.random() < described:  # nothing that was said before helps to describe
        return [description, *picked]
    if rng.random() < 0.5:
        picked.insert(int(rng.integers(len(picked) + 1)), description)
    return picked or [description]


def task_of_turn(question: str, clip: SyntheticClip) -> str:
    """The task of a turn's question, with a star where its choices were named."""
    plain, _, choices = question.partition("\nChoose one: ")
    for asked in clip.questions:
        if asked.question == plain:
            return (asked.task or "other") + ("*" if choices else "")
    return f"describe {clip.name}"
