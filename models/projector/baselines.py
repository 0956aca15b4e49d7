"""Baseline poolings for the resampler: the mean of all frames, and one token a frame."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reellama.models.projector.config import ProjectorConfig
from reellama.models.projector.pooling import Pooler, mean_frame


def _mlp(config: ProjectorConfig) -> nn.Sequential:
    """Two layers, as in LLaVA 1.5 (Liu et al., 2023)."""
    return nn.Sequential(
        nn.LayerNorm(config.channels),
        nn.Linear(config.channels, 4 * config.width),
        nn.GELU(),
        nn.Dropout(config.dropout),
        nn.Linear(4 * config.width, config.width),
    )


class MeanPool(Pooler):
    """The mean of all frames, its cells pooled to the number of tokens, then an MLP."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.tokens = config.tokens
        self.mlp = _mlp(config)

    def forward(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        mean = mean_frame(features, mask)
        return self.mlp(F.adaptive_avg_pool1d(mean.transpose(1, 2), self.tokens).transpose(1, 2))

    def attention(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """Uniform over frames; in each, over the cells that a token pools."""
        cells = torch.eye(features.shape[2], device=features.device)
        pooled = F.adaptive_avg_pool1d(cells, self.tokens).T  # [tokens, cells]
        frames = mask / mask.sum(1, keepdim=True)  # [B, T]
        return frames[:, None, :, None] * pooled[None, :, None, :]


class PerFrame(Pooler):
    """The mean of each frame's cells, then an MLP; frames are spread evenly over the tokens."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.tokens = config.tokens
        self.mlp = _mlp(config)

    def forward(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        frames = features.mean(2)  # [B, T, channels]
        rows = self._rows(mask)
        return self.mlp(frames.gather(1, rows[..., None].expand(-1, -1, frames.shape[2])))

    def attention(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """Uniform over the cells of one frame."""
        length, cells = features.shape[1:3]
        frames = F.one_hot(self._rows(mask), length).float()  # [B, tokens, T]
        return frames[..., None].expand(-1, -1, -1, cells) / cells

    def _rows(self, mask: Tensor) -> Tensor:
        """The index of each soft token's frame, `[B, tokens]`."""
        counts = mask.sum(1, keepdim=True)  # padding is at the end
        numbers = torch.arange(self.tokens, device=mask.device)
        return (numbers * counts) // self.tokens
