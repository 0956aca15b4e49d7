"""Synthetic clips of all scenarios with slots and conversations (`[synthetic]`): an endless data
set, drawn as it is read.

Sample `number` of a split is always the same, so a resumed run gets the same samples.
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

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.prompt_format import multiple_choice
from reellama.models.synthetic.assets.backgrounds import load_photos, load_wallpapers
from reellama.models.synthetic.assets.photographs import load_cut_outs
from reellama.models.synthetic.assets.picture_pool import PicturePool
from reellama.models.synthetic.assets.pictures import (
    ObjectKind,
    check_styles,
    load_kinds,
    load_pictures,
    shape_kinds,
)
from reellama.models.synthetic.codec_augmentation import render_through_codec
from reellama.models.synthetic.render import frame_times, render
from reellama.models.synthetic.scenarios.registry import random_clip
from reellama.models.synthetic.scenarios.stills import random_still_clip
from reellama.models.synthetic.scene_captions import DESCRIBE_QUESTIONS
from reellama.models.synthetic.slot_targets import slot_texts
from reellama.models.synthetic.synthetic_clip import SyntheticClip

HELD_OUT_EVERY = 10  # every tenth kind, in the order of kinds.csv, is never drawn in training
SPLIT_SEEDS = {"train": 0, "validation": 1, "test": 2}
CODEC_SHARE = 0.45  # of the clips go through a video file
JPEG_SHARE = 0.2  # of the others' frames go through JPEG
MAX_TURNS = 5


class Sample(TypedDict):
    """One clip: frames `[T, 3, side, side]` uint8, seconds `[T]`, and a conversation about it."""

    frames: Tensor
    times: Tensor
    slots: list[str]  # a text for each of `reellama.models.projector.slots.SLOT_WIDTHS`
    turns: list[tuple[str, str]]
    clip: SyntheticClip
    imagenet_classes: list[int]  # classes whose names follow the soft tokens


@dataclass(frozen=True)
class SyntheticConfig:
    """The `[synthetic]` table of a training config."""

    styles: tuple[str, ...] = ("noto", "openmoji", "shapes")
    style_weights: tuple[float, ...] = (0.45, 0.45, 0.1)
    frames: int = 16
    fewest_frames: int = 10
    seed: int = 0
    ask_everything: bool = False  # all questions of a clip, as is right with `separate_turns`

    def __post_init__(self) -> None:
        check_styles(self.styles, self.style_weights)
        if not 1 <= self.fewest_frames <= self.frames:
            raise ReellamaError(
                f"fewest_frames must be from 1 to frames, {self.frames}, not {self.fewest_frames}"
            )


def all_kinds() -> list[ObjectKind]:
    """All kinds of the emoji styles, flags included."""
    return [*load_kinds(), *load_kinds("flags")]


def held_out_kinds() -> set[str]:
    """The kinds that training never draws."""
    return {kind.name for kind in all_kinds()[::HELD_OUT_EVERY]}


@functools.cache
def load_picture_pools(
    styles: Sequence[str], assets: Path, kinds: str, training: bool
) -> list[PicturePool]:
    """A pool for each style, of the "known" or "new" `kinds`.

    Wallpapers and cut-outs are for `training` only.
    """
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
    """Samples of a split; `side` is the tower's input size in pixels.

    kinds: "known" kinds of training, or "new" ones that training never draws.
    stills: single frames (`reellama.models.synthetic.scenarios.stills`) instead of clips.
    sampling_weights: factors on the usual shares of scenarios, by name.
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
        """The data set of stills with the same settings."""
        return SyntheticClips(
            self.config, self.side, self.assets,
            split=self.split, kinds=self.kinds, stills=True, photos=self._photos,
        )  # fmt: skip

    def with_sampling_weights(self, sampling_weights: Mapping[str, float]) -> SyntheticClips:
        """This data set with other shares of scenarios."""
        return SyntheticClips(
            self.config, self.side, self.assets, split=self.split, kinds=self.kinds,
            stills=self.stills, photos=self._photos, sampling_weights=sampling_weights,
        )  # fmt: skip

    @property
    def picture_pools(self) -> list[PicturePool]:
        """A pool for each style."""
        pools = load_picture_pools(
            self.config.styles, self.assets, self.kinds, self.split != "test"
        )
        if self._photos is None:
            return pools
        return [replace(pool, photos=self._photos) for pool in pools]

    def picture_pool(self, number: int) -> PicturePool:
        """The pictures of clip `number`, all of one random style."""
        rng = self._rng(number, 2)
        return self.picture_pools[
            int(rng.choice(len(self.picture_pools), p=self.config.style_weights))
        ]

    def clip(
        self, number: int, name: str | None = None, pool: PicturePool | None = None
    ) -> SyntheticClip:
        """Clip `number`; of a given scenario `name` or picture `pool` where set."""
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
            turns=conversation(
                clip, rng, 0.25 if self.stills else 0.35, self.config.ask_everything
            ),
            clip=clip,
            imagenet_classes=list(clip.imagenet_classes),
        )

    def without_video(self, number: int) -> Sample:
        """Sample `number` with one black pixel for its video, for training on slots alone."""
        clip = self.clip(number)
        return Sample(
            frames=torch.zeros(1, 3, 1, 1, dtype=torch.uint8),
            times=torch.zeros(1),
            slots=slot_texts(clip),
            turns=conversation(clip, self._rng(number, 1), whole=self.config.ask_everything),
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
    """Resize a frame to the tower's input: uint8 `[side, side, 3]`.

    quality: of JPEG compression before that; None for none.
    """
    image = Image.fromarray(frame)
    if quality is not None:
        packed = BytesIO()
        image.save(packed, "jpeg", quality=quality)
        image = Image.open(packed)
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def conversation(
    clip: SyntheticClip,
    rng: np.random.Generator,
    p_describe_first: float = 0.35,
    whole: bool = False,
) -> list[tuple[str, str]]:
    """Questions and answers in random order, some with their choices listed.

    p_describe_first: probability that the description is the first turn.
    whole: ask every question, up to the limit. Otherwise many conversations have one or two turns,
        because earlier turns give away much of the later answers.
    """
    turns = []
    for item in clip.questions:
        if len(item.choices) > 1 and rng.random() < 0.5:
            mixed = [item.choices[i] for i in rng.permutation(len(item.choices))]
            turns.append((multiple_choice(item.question, mixed), item.answer))
        else:
            turns.append((item.question, item.sentence))
    max_questions = MAX_TURNS - 1 if rng.random() < 0.6 or whole else 1
    picked = [turns[i] for i in rng.permutation(len(turns))[:max_questions]]
    question = (
        DESCRIBE_QUESTIONS[0]
        if rng.random() < 0.6
        else DESCRIBE_QUESTIONS[int(rng.integers(len(DESCRIBE_QUESTIONS)))]
    )
    description = (question, clip.caption)
    if rng.random() < p_describe_first:  # before any turn that helps to describe
        return [description, *picked]
    if rng.random() < 0.5:
        picked.insert(int(rng.integers(len(picked) + 1)), description)
    return picked or [description]


def task_of_turn(question: str, clip: SyntheticClip) -> str:
    """The task of a turn's question, with a star where its choices are listed."""
    plain, _, choices = question.partition("\nChoose one: ")
    for item in clip.questions:
        if item.question == plain:
            return (item.task or "other") + ("*" if choices else "")
    return f"describe {clip.scenario}"
