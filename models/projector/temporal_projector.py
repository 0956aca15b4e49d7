"""Temporal projectors: from the features of frames to soft tokens.

All of them map `features [B, T, cells, channels]`, `times [B, T]` in seconds and `mask [B, T]`
(false at padding) to `[B, tokens, n_embd]`, for any number T of frames.

- `Resampler` (the default): learned queries attend to every cell of every frame (Perceiver, Jaegle
  et al., 2021; Flamingo, Alayrac et al., 2022).
- `MeanPool`, `PerFrame`: baselines.

All end in a `WordMixture`: a soft token is a convex combination of the LLM's token embeddings plus
a correction (AlignVLM, Masry et al., 2025), which keeps it in the space that the LLM knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from torch import Tensor

from reellama.models.projector.baselines import MeanPool, PerFrame
from reellama.models.projector.config import ProjectorConfig
from reellama.models.projector.pooling import Pooler
from reellama.models.projector.renamed_weights import RenamedWeights
from reellama.models.projector.resampler import Resampler
from reellama.models.projector.word_mixture import WordMixture

POOLERS: dict[str, Callable[[ProjectorConfig], Pooler]] = {
    "resampler": Resampler,
    "mean": MeanPool,
    "frame": PerFrame,
}


class Projector(RenamedWeights):
    """A pooler of the video's features, then a word mixture that turns its vectors into soft
    tokens.

    Raises KeyError for an unknown kind of pooler.
    """

    old_names: ClassVar[Mapping[str, str]] = {"body": "pooler", "words": "word_mixture"}

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.config = config
        self.pooler = POOLERS[config.kind](config)
        self.word_mixture = WordMixture(config.width, config.tokens, config.words, config.n_embd)

    def hidden(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """The pooled vectors `[B, tokens, width]`, before the word mixture."""
        return self.pooler(features, times, mask)

    def word_probabilities(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """The share of each word in each soft token: `[B, tokens, words]`."""
        return self.word_mixture.logits(self.hidden(features, times, mask)).softmax(-1)

    def attention(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """The attention of each soft token `[B, tokens, T, cells]`; over T and cells it sums to
        1."""
        return self.pooler.attention(features, times, mask)

    def forward(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """Soft tokens `[B, tokens, n_embd]`."""
        return self.word_mixture(self.hidden(features, times, mask))
