"""The data set of synthetic clips with slots and conversations (`[synthetic]` in a config).

Samples are drawn when they are read, without end. Sample `number` of a split is always the same,
so that a resumed run gets the same samples.
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
CODEC_SHARE = 0.45  # share of the clips that are encoded as a video
JPEG_SHARE = 0.2  # share of the other clips that are compressed as JPEG
MAX_TURNS = 5  # of a conversation, unless it asks everything


class Sample(TypedDict):
    """One clip and a conversation about it."""

    frames: Tensor  # uint8 [T, 3, side, side]
    times: Tensor  # float32 [T], seconds
    slots: list[str]  # a text for each of `reellama.models.projector.slots.SLOT_WIDTHS`
    turns: list[tuple[str, str]]  # questions and answers
    clip: SyntheticClip
    imagenet_classes: list[int]  # classes whose names follow the soft tokens


@dataclass(frozen=True)
class SyntheticConfig:
    """The `[synthetic]` table of a training config."""

    styles: tuple[str, ...] = ("noto", "openmoji", "shapes")
    style_weights: tuple[float, ...] = (0.45, 0.45, 0.1)  # probability of each style
    frames: int = 16  # of a clip
    fewest_frames: int = 10  # training clips lose frames at random, down to this number
    seed: int = 0
    ask_everything: bool = False  # all questions of a clip, for use with `separate_turns`

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
    """A pool of pictures for each style.

    kinds: "known" for those that training draws, or "new" for the others. training: whether to add
    wallpapers and cut-outs, which tests must not use.
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
    """The samples of a split.

    Args:
        config: the `[synthetic]` table.
        side: width and height of the tower's input, in pixels.
        assets: the download folder of picture sets.
        split: a key of `SPLIT_SEEDS`.
        kinds: "known" for object kinds that training draws, or "new" for the others.
        stills: whether samples are single frames (`reellama.models.synthetic.scenarios.stills`)
            instead of clips.
        photos: photographs for backgrounds, in place of those of installed packages.
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
        """Clip `number`, of the scenario `name` and of pictures from `pool` if they are set."""
        pool = pool or self.picture_pool(number)
        if self.stills:
            return random_still_clip(self._rng(number), pool, self.sampling_weights)
        return random_clip(self._rng(number), pool, name, self.sampling_weights)

    def _rng(self, number: int, part: int = 0) -> np.random.Generator:
        """The random numbers of a sample's scene (part 0), frames and turns (1), or pool (2)."""
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
        """Sample `number` with one black pixel in place of its video, for training without one."""
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
        """Frames uint8 `[T, side, side, 3]` and their seconds `[T]`; with augmentation if
        `training`."""
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
                decoded, times = render_through_codec(rng, clip.scene, times)
                return np.stack([_squash(f, self.side, None) for f in decoded]), times
        quality = int(rng.integers(25, 90)) if rng.random() < JPEG_SHARE else None
        frames = [_squash(f, self.side, quality) for f in render(clip.scene, times)]
        return np.stack(frames), times


def _squash(frame: np.ndarray, side: int, quality: int | None) -> np.ndarray:
    """Resize a frame to the tower's input, uint8 `[side, side, 3]`, without its aspect ratio.

    quality: of a JPEG compression before the resize; None for no compression.
    """
    image = Image.fromarray(frame)
    if quality is not None:
        jpeg = BytesIO()
        image.save(jpeg, "jpeg", quality=quality)
        image = Image.open(jpeg)
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def conversation(
    clip: SyntheticClip,
    rng: np.random.Generator,
    p_describe_first: float = 0.35,
    whole: bool = False,
) -> list[tuple[str, str]]:
    """Questions about a clip and their answers in random order, some with their choices listed.

    Args:
        clip: what to ask about.
        rng: decides what is asked.
        p_describe_first: probability that the description is the first turn.
        whole: whether to always ask as many questions as the limit allows. Otherwise many
            conversations have one or two turns, because earlier turns give away later answers.
    """
    turns = []
    for item in clip.questions:
        if len(item.choices) > 1 and rng.random() < 0.5:
            choices = [item.choices[i] for i in rng.permutation(len(item.choices))]
            turns.append((multiple_choice(item.question, choices), item.answer))
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
    if rng.random() < p_describe_first:  # no earlier turn helps with the description
        return [description, *picked]
    if rng.random() < 0.5:
        picked.insert(int(rng.integers(len(picked) + 1)), description)
    return picked or [description]


def task_of_turn(question: str, clip: SyntheticClip) -> str:
    """The task of a turn's question, with a star if the question lists its choices."""
    plain, _, choices = question.partition("\nChoose one: ")
    for item in clip.questions:
        if item.question == plain:
            return (item.task or "other") + ("*" if choices else "")
    return f"describe {clip.scenario}"
