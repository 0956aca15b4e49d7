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

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class ProjectorConfig:
    """The `projector` object of `bundle.json`."""

    kind: str = "resampler"  # "resampler", "mean" or "frame"
    tokens: int = 24  # soft tokens a video
    n_embd: int = 576  # width of the LLM's token embeddings
    channels: int = 320  # width of the tower's grid
    cells: int = 36  # cells of the tower's grid
    words: int = 1024  # rows of the word mixture
    width: int = 384
    layers: int = 2
    heads: int = 6
    dropout: float = 0.1
    encoder: int = 0  # layers in which the cells of all frames look at each other

    def to_json(self) -> dict[str, object]:
        return asdict(self)


class WordMixture(nn.Module):
    """`[B, tokens, width]` -> `[B, tokens, n_embd]`: a softmax over words mixes their embeddings.

    `logits` is what alignment trains: the i-th soft token should be the i-th word of the caption.
    `prior [tokens, words]` is added to them and is not learned: what a soft token says when it is
    not sure.
    """

    prior: Tensor

    def __init__(self, width: int, tokens: int, words: int, n_embd: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, words)
        self.correction = nn.Linear(width, n_embd)
        nn.init.zeros_(self.correction.weight)
        nn.init.zeros_(self.correction.bias)
        self.embeddings = nn.Parameter(torch.zeros(words, n_embd))
        self.register_buffer("prior", torch.zeros(tokens, words))

    def logits(self, x: Tensor) -> Tensor:
        return self.score(self.norm(x)) + self.prior

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.logits(x).softmax(-1) @ self.embeddings
        return mixed + self.correction(self.norm(x))


def fourier(x: Tensor, bands: int = 8) -> Tensor:
    """`[...]` in 0..1 -> `[..., 2 * bands]`: sines and cosines of doubling frequency."""
    angles = x[..., None] * math.pi * 2.0 ** torch.arange(bands, device=x.device)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def relative_times(times: Tensor, mask: Tensor) -> Tensor:
    """Seconds `[B, T]` -> 0 at a clip's first frame, 1 at its last; 0 throughout for a still."""
    first = times.masked_fill(~mask, torch.inf).amin(1, keepdim=True)
    last = times.masked_fill(~mask, -torch.inf).amax(1, keepdim=True)
    return ((times - first) / (last - first).clamp(min=1e-6)).masked_fill(~mask, 0.0)


def mean_frame(features: Tensor, mask: Tensor) -> Tensor:
    """The mean of the frames that are there: `[B, cells, channels]`."""
    weights = mask.float() / mask.sum(1, keepdim=True)
    return (features * weights[:, :, None, None]).sum(1)


class Attention(nn.Module):
    """Attention of `x [B, N, W]` over `context [B, M, W]`; `mask [B, M]` is false at padding."""

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
        hidden = None if mask is None else mask[:, None, None, :]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=hidden)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def weights(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """How much each of `x` attends to each of `context`, mean over the heads: `[B, N, M]`."""
        q, k = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(x), self.key_value(context).chunk(2, dim=-1)[0])
        )
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
        return scores.masked_fill(~mask[:, None, None, :], -torch.inf).softmax(-1).mean(1)


class ResamplerBlock(nn.Module):
    """Queries look at the video, then at each other, then think."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_look, self.look = nn.LayerNorm(width), Attention(width, heads)
        self.norm_share, self.share = nn.LayerNorm(width), Attention(width, heads)
        self.norm_think = nn.LayerNorm(width)
        self.think = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )

    def forward(self, queries: Tensor, video: Tensor, mask: Tensor) -> Tensor:
        queries = queries + self.look(self.norm_look(queries), video, mask)
        shared = self.norm_share(queries)
        queries = queries + self.share(shared, shared)
        return queries + self.think(self.norm_think(queries))


class EncoderBlock(nn.Module):
    """Cells look at all cells of all frames, then think."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_look, self.look = nn.LayerNorm(width), Attention(width, heads)
        self.norm_think = nn.LayerNorm(width)
        self.think = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        # It begins by passing on what the tower sees, so that names are learned at once.
        for last in (self.look.out, self.think[-1]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, video: Tensor, mask: Tensor) -> Tensor:
        normed = self.norm_look(video)
        video = video + self.look(normed, normed, mask)
        return video + self.think(self.norm_think(video))


class Body(nn.Module):
    """What looks at a video for each soft token."""

    def forward(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """`[B, tokens, width]`."""
        raise NotImplementedError

    def looks(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """Where each soft token looks: shares `[B, tokens, T, cells]` that sum to 1."""
        raise NotImplementedError


class Resampler(Body):
    """Learned queries over all cells of all frames, which know where and when they are."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        width = config.width
        self.input = nn.Sequential(nn.LayerNorm(config.channels), nn.Linear(config.channels, width))
        # What differs from the clip's mean is what moves. At zero, the resampler starts without it.
        self.change = nn.Parameter(torch.zeros(config.channels, width))
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
        video, seen = self._video(features, times, mask)
        queries = self.queries.expand(len(features), -1, -1)
        for block in self.blocks:
            queries = block(queries, video, seen)
        return queries

    def looks(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """The attention of each query, mean over heads and blocks."""
        video, seen = self._video(features, times, mask)
        queries = self.queries.expand(len(features), -1, -1)
        found = []
        for block in self.blocks:
            found.append(block.look.weights(block.norm_look(queries), video, seen))
            queries = block(queries, video, seen)
        return torch.stack(found).mean(0).unflatten(2, features.shape[1:3])

    def _video(self, features: Tensor, times: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What queries look at, `[B, T * cells, width]`, and where it is no padding."""
        when = self.time_position(fourier(relative_times(times, mask)))  # [B, T, W]
        content = self.input[0](features)
        moving = content - mean_frame(content, mask)[:, None]
        video = self.input[1](content) + moving @ self.change
        video = video + self.cell_position + when[:, :, None]
        video = video.flatten(1, 2)  # [B, T * cells, W]
        seen = mask.repeat_interleave(features.shape[2], dim=1)
        for layer in self.encoder:
            video = layer(video, seen)
        return self.norm_video(video), seen


def _mlp(config: ProjectorConfig) -> nn.Sequential:
    """Two layers, as in LLaVA 1.5 (Liu et al., 2023)."""
    return nn.Sequential(
        nn.LayerNorm(config.channels),
        nn.Linear(config.channels, 4 * config.width),
        nn.GELU(),
        nn.Dropout(config.dropout),
        nn.Linear(4 * config.width, config.width),
    )


class MeanPool(Body):
    """The mean of all frames; its cells, pooled to the number of tokens, each through an MLP."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.tokens = config.tokens
        self.mlp = _mlp(config)

    def forward(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        mean = mean_frame(features, mask)
        return self.mlp(F.adaptive_avg_pool1d(mean.transpose(1, 2), self.tokens).transpose(1, 2))

    def looks(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """All frames alike, and in them the cells that are pooled."""
        cells = torch.eye(features.shape[2], device=features.device)
        pooled = F.adaptive_avg_pool1d(cells, self.tokens).T  # [tokens, cells]
        frames = mask / mask.sum(1, keepdim=True)  # [B, T]
        return frames[:, None, :, None] * pooled[None, :, None, :]


class PerFrame(Body):
    """The mean of each frame's cells through an MLP; frames are spread evenly over the tokens."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.tokens = config.tokens
        self.mlp = _mlp(config)

    def forward(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        frames = features.mean(2)  # [B, T, channels]
        rows = self._rows(mask)
        return self.mlp(frames.gather(1, rows[..., None].expand(-1, -1, frames.shape[2])))

    def looks(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """One frame, all of its cells alike."""
        length, cells = features.shape[1:3]
        frames = F.one_hot(self._rows(mask), length).float()  # [B, tokens, T]
        return frames[..., None].expand(-1, -1, -1, cells) / cells

    def _rows(self, mask: Tensor) -> Tensor:
        """The number of each soft token's frame, `[B, tokens]`."""
        counts = mask.sum(1, keepdim=True)  # padding is at the end
        slots = torch.arange(self.tokens, device=mask.device)
        return (slots * counts) // self.tokens


BODIES: dict[str, Callable[[ProjectorConfig], Body]] = {
    "resampler": Resampler,
    "mean": MeanPool,
    "frame": PerFrame,
}


class Projector(nn.Module):
    """A body that looks at the video, and the word mixture that speaks to the LLM."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.config = config
        self.body = BODIES[config.kind](config)
        self.words = WordMixture(config.width, config.tokens, config.words, config.n_embd)

    def hidden(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """`[B, tokens, width]`, before it is put into words."""
        return self.body(features, times, mask)

    def says(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """The share of each word in each soft token: `[B, tokens, words]`."""
        return self.words.logits(self.hidden(features, times, mask)).softmax(-1)

    def looks(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """How each soft token spreads its attention over cells of frames, in shares that sum to 1:
        `[B, tokens, T, cells]`."""
        return self.body.looks(features, times, mask)

    def forward(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """Soft tokens `[B, tokens, n_embd]`."""
        return self.words(self.hidden(features, times, mask))


def build_projector(config: ProjectorConfig) -> Projector:
    """A new projector; raises KeyError for a kind that does not exist."""
    return Projector(config)
