"""The resampler: learned queries attend to every cell of every frame (Perceiver, Flamingo)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reellama.models.projector.config import ProjectorConfig
from reellama.models.projector.pooling import Pooler, fourier, mean_frame, relative_times
from reellama.models.projector.renamed_weights import RenamedWeights


class Attention(nn.Module):
    """Multi-head attention of `x [B, N, W]` over `context [B, M, W]`.

    `mask [B, M]` is false at padding.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, heads, N or M, W / heads]
            for part in (self.query(x), *self.key_value(context).chunk(2, dim=-1))
        )
        visible = None if mask is None else mask[:, None, None, :]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def weights(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """The attention weights of `x` over `context`, averaged over the heads: `[B, N, M]`.

        `scaled_dot_product_attention` does not return them.
        """
        q, k = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(x), self.key_value(context).chunk(2, dim=-1)[0])
        )
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
        return scores.masked_fill(~mask[:, None, None, :], -torch.inf).softmax(-1).mean(1)


class ResamplerBlock(RenamedWeights):
    """Cross-attention to the video, self-attention among queries, and a feed-forward network."""

    old_names: ClassVar[Mapping[str, str]] = {
        "norm_look": "norm_cross_attention",
        "look": "cross_attention",
        "norm_share": "norm_self_attention",
        "share": "self_attention",
        "norm_think": "norm_feed_forward",
        "think": "feed_forward",
    }

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_cross_attention = nn.LayerNorm(width)
        self.cross_attention = Attention(width, heads)
        self.norm_self_attention = nn.LayerNorm(width)
        self.self_attention = Attention(width, heads)
        self.norm_feed_forward = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )

    def forward(self, queries: Tensor, video: Tensor, mask: Tensor) -> Tensor:
        queries = queries + self.cross_attention(self.norm_cross_attention(queries), video, mask)
        normed = self.norm_self_attention(queries)
        queries = queries + self.self_attention(normed, normed)
        return queries + self.feed_forward(self.norm_feed_forward(queries))

    def attention_weights(self, queries: Tensor, video: Tensor, mask: Tensor) -> Tensor:
        """The weights of the cross-attention, averaged over heads: `[B, queries, T * cells]`."""
        return self.cross_attention.weights(self.norm_cross_attention(queries), video, mask)


class EncoderBlock(RenamedWeights):
    """Self-attention over all cells of all frames, then a feed-forward network."""

    old_names: ClassVar[Mapping[str, str]] = {
        "norm_look": "norm_self_attention",
        "look": "self_attention",
        "norm_think": "norm_feed_forward",
        "think": "feed_forward",
    }

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_self_attention = nn.LayerNorm(width)
        self.self_attention = Attention(width, heads)
        self.norm_feed_forward = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        # Start as the identity: the queries then read the tower's own features from the first step.
        for last in (self.self_attention.out, self.feed_forward[-1]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, video: Tensor, mask: Tensor) -> Tensor:
        normed = self.norm_self_attention(video)
        video = video + self.self_attention(normed, normed, mask)
        return video + self.feed_forward(self.norm_feed_forward(video))


class Resampler(Pooler):
    """Learned queries attend to all cells of all frames, which have embeddings of cell and time."""

    old_names: ClassVar[Mapping[str, str]] = {"change": "difference_weight"}

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        width = config.width
        self.input = nn.Sequential(nn.LayerNorm(config.channels), nn.Linear(config.channels, width))
        # Projects a frame's difference from the clip's mean frame, which shows motion. Zero at the
        # start, so that training begins with single frames.
        self.difference_weight = nn.Parameter(torch.zeros(config.channels, width))
        self.cell_position = nn.Parameter(torch.randn(config.cells, width) * 0.02)
        self.time_position = nn.Linear(16, width)  # 2 x 8 Fourier bands
        self.encoder = nn.ModuleList(
            EncoderBlock(width, config.heads, config.dropout) for _ in range(config.encoder)
        )
        self.norm_video = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.randn(config.tokens, width) * 0.5)
        self.blocks = nn.ModuleList(
            ResamplerBlock(width, config.heads, config.dropout) for _ in range(config.layers)
        )

    def forward(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        video, cell_mask = self._video(features, times, mask)
        queries = self.queries.expand(len(features), -1, -1)
        for block in self.blocks:
            queries = block(queries, video, cell_mask)
        return queries

    def attention(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """The attention of each query, averaged over heads and blocks."""
        video, cell_mask = self._video(features, times, mask)
        queries = self.queries.expand(len(features), -1, -1)
        weights = []
        for block in self.blocks:
            weights.append(block.attention_weights(queries, video, cell_mask))
            queries = block(queries, video, cell_mask)
        return torch.stack(weights).mean(0).unflatten(2, features.shape[1:3])

    def _video(self, features: Tensor, times: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The context of the queries, `[B, T * cells, width]`, and its mask `[B, T * cells]`."""
        time = self.time_position(fourier(relative_times(times, mask)))  # [B, T, W]
        normed = self.input[0](features)  # [B, T, cells, channels]
        difference = normed - mean_frame(normed, mask)[:, None]
        video = self.input[1](normed) + difference @ self.difference_weight  # [B, T, cells, W]
        video = video + self.cell_position + time[:, :, None]
        video = video.flatten(1, 2)  # [B, T * cells, W]
        cell_mask = mask.repeat_interleave(features.shape[2], dim=1)  # [B, T * cells]
        for layer in self.encoder:
            video = layer(video, cell_mask)
        return self.norm_video(video), cell_mask
