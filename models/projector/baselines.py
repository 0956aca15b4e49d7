"""Baselines to compare the resampler with: the mean of all frames, and one token a frame."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reellama.models.projector.config import ProjectorConfig
from reellama.models.projector.pooling import Pooler, mean_frame


def _mlp(config: ProjectorConfig) -> nn.Sequential:
    """A two-layer MLP, as in LLaVA 1.5 (Liu et al., 2023)."""
    return nn.Sequential(
        nn.LayerNorm(config.channels),
        nn.Linear(config.channels, 4 * config.width),
        nn.GELU(),
        nn.Dropout(config.dropout),
        nn.Linear(4 * config.width, config.width),
    )


class MeanPool(Pooler):
    """Average the frames, pool the cells to the number of tokens, then apply an MLP."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.tokens = config.tokens
        self.mlp = _mlp(config)

    def forward(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        mean = mean_frame(features, mask)  # [B, cells, channels]
        return self.mlp(F.adaptive_avg_pool1d(mean.transpose(1, 2), self.tokens).transpose(1, 2))

    def attention(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """Uniform over the frames, and in each over the cells that a token pools."""
        cells = torch.eye(features.shape[2], device=features.device)
        pooled = F.adaptive_avg_pool1d(cells, self.tokens).T  # [tokens, cells]
        frames = mask / mask.sum(1, keepdim=True)  # [B, T]
        return frames[:, None, :, None] * pooled[None, :, None, :]


class PerFrame(Pooler):
    """Average each frame's cells, then apply an MLP. Frames are spread evenly over the tokens."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.tokens = config.tokens
        self.mlp = _mlp(config)

    def forward(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        frames = features.mean(2)  # [B, T, channels]
        indices = self._frame_indices(mask)
        return self.mlp(frames.gather(1, indices[..., None].expand(-1, -1, frames.shape[2])))

    def attention(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """Uniform over the cells of a token's frame."""
        n_frames, cells = features.shape[1:3]
        frames = F.one_hot(self._frame_indices(mask), n_frames).float()  # [B, tokens, T]
        return frames[..., None].expand(-1, -1, -1, cells) / cells

    def _frame_indices(self, mask: Tensor) -> Tensor:
        """The index of each soft token's frame, `[B, tokens]`."""
        counts = mask.sum(1, keepdim=True)  # [B, 1]; padding is at the end
        tokens = torch.arange(self.tokens, device=mask.device)
        return (tokens * counts) // self.tokens
