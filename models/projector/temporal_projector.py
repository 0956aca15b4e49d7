"""Temporal projectors: features of frames in, soft tokens out.

All of them map `features [B, T, cells, channels]`, `times [B, T]` in seconds and `mask [B, T]`
(true where a frame is) to `[B, tokens, n_embd]`, for any number of frames T.

- `Resampler` (the default): learned queries look at every cell of every frame (Perceiver, Jaegle et
  al., 2021; Flamingo, Alayrac et al., 2022).
- `MeanPool`, `PerFrame`: the simple baselines that it must beat.

All end in a `WordMixture`: a soft token is a convex combination of embeddings of words that the
LLM knows, plus a correction (AlignVLM, Masry et al., 2025), so that what the LLM is fed lies where
its own tokens lie.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from models.projector.baselines import MeanPool, PerFrame
from models.projector.config import ProjectorConfig
from models.projector.pooling import Pooler
from models.projector.resampler import Resampler
from models.projector.word_mixture import WordMixture

POOLERS: dict[str, Callable[[ProjectorConfig], Pooler]] = {
    "resampler": Resampler,
    "mean": MeanPool,
    "frame": PerFrame,
}


class Projector(nn.Module):
    """A body that looks at the video, and the word mixture that speaks to the LLM."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.config = config
        self.body = POOLERS[config.kind](config)
        self.words = WordMixture(config.width, config.tokens, config.words, config.n_embd)

    def hidden(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """`[B, tokens, width]`, before it is put into words."""
        return self.body(features, times, mask)

    def word_probabilities(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """The share of each word in each soft token: `[B, tokens, words]`."""
        return self.words.logits(self.hidden(features, times, mask)).softmax(-1)

    def attention(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """How each soft token spreads its attention over cells of frames, in shares that sum to 1:
        `[B, tokens, T, cells]`."""
        return self.body.attention(features, times, mask)

    def forward(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """Soft tokens `[B, tokens, n_embd]`."""
        return self.words(self.hidden(features, times, mask))


def build_projector(config: ProjectorConfig) -> Projector:
    """A new projector; raises KeyError for a kind that does not exist."""
    return Projector(config)
