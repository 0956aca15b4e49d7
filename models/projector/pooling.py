"""The interface of poolers, and the functions that they share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reellama.models.projector.renamed_weights import RenamedWeights


def fourier(x: Tensor, bands: int = 8) -> Tensor:
    """Numbers from 0 to 1 `[...]` -> Fourier features `[..., 2 * bands]` of doubling frequency."""
    angles = x[..., None] * math.pi * 2.0 ** torch.arange(bands, device=x.device)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def relative_times(times: Tensor, mask: Tensor) -> Tensor:
    """Seconds `[B, T]` -> times `[B, T]` from 0 at a clip's first frame to 1 at its last; 0 for the
    frames of a still and for padding."""
    first = times.masked_fill(~mask, torch.inf).amin(1, keepdim=True)
    last = times.masked_fill(~mask, -torch.inf).amax(1, keepdim=True)
    return ((times - first) / (last - first).clamp(min=1e-6)).masked_fill(~mask, 0.0)


def mean_frame(features: Tensor, mask: Tensor) -> Tensor:
    """The mean of the frames, without padding: `[B, cells, channels]`."""
    weights = mask.float() / mask.sum(1, keepdim=True)
    return (features * weights[:, :, None, None]).sum(1)


class Pooler(RenamedWeights):
    """Pools the features of a video into one vector for each soft token.

    Its methods take `features [B, T, cells, channels]`, `times [B, T]` in seconds and
    `mask [B, T]`, which is false at padding.
    """

    def forward(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """The pooled vectors `[B, tokens, width]`."""
        raise NotImplementedError

    def attention(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """The attention of each soft token `[B, tokens, T, cells]`; over T and cells it sums to
        1."""
        raise NotImplementedError
