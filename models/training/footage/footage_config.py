"""Configs of real footage: which files, and the phases `concepts` and `captions`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.training.trainer import TrainerConfig


@dataclass(frozen=True)
class FootageConfig:
    """The `[footage]` table: files of captioned videos, as `read_caption_rows` reads them.

    Attributes:
        folder: what the files' paths are relative to.
        train, validation: JSONL or CSV files.
        weights: share of each file of `train` in a batch; without them, all have the same.
        frames: frames of a video at most; a still has one.
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
        """Files by their names."""
        return [Path(self.folder).expanduser() / name for name in names]

    @property
    def shares(self) -> list[float]:
        """The share of each file of `train` in a batch; their sum is 1."""
        weights = self.weights or (1.0,) * len(self.train)
        return [weight / sum(weights) for weight in weights]


@dataclass(frozen=True)
class ConceptPhaseConfig(TrainerConfig):
    """The phase `concepts`: which words a video supports, learned from captions without the LLM.

    Attributes:
        vocabulary: words of captions that are concepts, the most frequent ones.
        named, free: soft tokens of the likeliest concepts, and of a resampler beside them.
        width, dropout: of the concept head.
        free_weight: weight of the loss of the free tokens.
        frames: frames of a video in a training step at most, drawn by chance.
        drawn_clips: synthetic clips that teach what is no real footage; 0 takes everything for it.
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
    """The phase `captions`: the adapter and the free tokens, from captions and questions of them.

    Attributes:
        captions, questions: of a video in a step, at most.
        yes_no_smoothing: probability that "Yes" is to leave to "No", and "No" to "Yes".
        agreeing: share of a video's captions that are learned: those most like the others.
        frames: as in `concepts`.
        drawn_batch: synthetic clips in each step, so that the adapter reads slots as before.
        drawn_weight: weight of their loss.
        samples: captions of a video that the LLM samples itself, to learn which score better; 0
            for none, else two or more.
        sampled_batch: videos in each step that captions are sampled of.
        reward_weight: weight of what is learned from them.
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
