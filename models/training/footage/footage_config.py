"""Config tables for real footage: its files, and the phases `concepts` and `captions`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.user_paths import expand_user
from reellama.models.training.trainer import TrainerConfig


@dataclass(frozen=True)
class FootageConfig:
    """The `[footage]` table: files of captioned videos, as `read_caption_rows` reads them.

    Attributes:
        folder: the folder that the files' paths are relative to.
        train, validation: JSONL or CSV files.
        weights: relative share of each file of `train` in a batch; by default, all are equal.
        frames: largest number of frames of a video.
    """

    folder: str = ""
    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    frames: int = 8

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.train):
            raise ReellamaError(
                f"footage.weights: {len(self.weights)} for {len(self.train)} files of footage.train"
            )
        if any(weight <= 0 for weight in self.weights):
            raise ReellamaError("footage.weights must be over 0; leave a file out instead")

    def paths(self, names: Sequence[str]) -> list[Path]:
        """The paths of files by their names."""
        return [expand_user(self.folder) / name for name in names]

    @property
    def shares(self) -> list[float]:
        """The share of each file of `train` in a batch; their sum is 1."""
        weights = self.weights or (1.0,) * len(self.train)
        return [weight / sum(weights) for weight in weights]


@dataclass(frozen=True)
class ConceptPhaseConfig(TrainerConfig):
    """The phase `concepts`, which learns the words of captions without the LLM.

    Attributes:
        vocabulary: number of concepts, the most frequent words of captions.
        named, free: number of soft tokens of the likeliest concepts, and of the resampler.
        width, dropout: of the concept head.
        free_weight: weight of the loss of the free tokens.
        frames: largest number of random frames of a video in a training step.
        drawn_clips: number of synthetic clips that the footage classifier learns from. 0 for no
            classifier, so that every video counts as real footage.
    """

    vocabulary: int = 1000
    named: int = 16
    free: int = 12
    width: int = 512
    dropout: float = 0.3
    free_weight: float = 0.7
    frames: int = 3
    drawn_clips: int = 300


@dataclass(frozen=True)
class CaptionPhaseConfig(TrainerConfig):
    """The phase `captions`, which trains the adapter and the free tokens.

    Attributes:
        captions, questions: largest numbers for a video in a step.
        yes_no_smoothing: label smoothing between "Yes" and "No": target probability of the wrong
            one.
        agreeing: share of a video's captions that are used, those most similar to the others.
        frames: as in `concepts`.
        drawn_batch: synthetic clips in each step, so that the adapter still reads slots.
        drawn_weight: weight of their loss.
        samples: captions that the LLM samples for a video, for self-critical training; 0 for none,
            else two or more.
        sampled_batch: videos in each step for which captions are sampled.
        reward_weight: weight of the self-critical loss.
    """

    captions: int = 3
    questions: int = 2
    yes_no_smoothing: float = 0.0
    agreeing: float = 0.6
    frames: int = 3
    drawn_batch: int = 1
    drawn_weight: float = 0.5
    samples: int = 0
    sampled_batch: int = 8
    reward_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples == 1:
            raise ReellamaError("captions.samples: 1 has no other to be better than; take 2 or 0")
        if not 0 <= self.yes_no_smoothing < 0.5:
            raise ReellamaError("captions.yes_no_smoothing must be from 0 to under 0.5")

    @property
    def sizes(self) -> tuple[int, ...]:
        sampled = (self.sampled_batch,) if self.samples else ()
        return (self.batch, self.drawn_batch, *sampled)
