"""The interface of a pooling of frames, and the parts that poolings share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reellama.models.projector.renamed_weights import RenamedWeights


def fourier(x: Tensor, bands: int = 8) -> Tensor:
    """`[...]` in 0..1 -> `[..., 2 * bands]`: Fourier features of doubling frequency."""
    angles = x[..., None] * math.pi * 2.0 ** torch.arange(bands, device=x.device)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def relative_times(times: Tensor, mask: Tensor) -> Tensor:
    """Seconds `[B, T]` -> 0 at a clip's first frame, 1 at its last; 0 throughout for a still."""
    first = times.masked_fill(~mask, torch.inf).amin(1, keepdim=True)
    last = times.masked_fill(~mask, -torch.inf).amax(1, keepdim=True)
    return ((times - first) / (last - first).clamp(min=1e-6)).masked_fill(~mask, 0.0)


def mean_frame(features: Tensor, mask: Tensor) -> Tensor:
    """The mean of the frames, without padding: `[B, cells, channels]`."""
    weights = mask.float() / mask.sum(1, keepdim=True)
    return (features * weights[:, :, None, None]).sum(1)


class Pooler(RenamedWeights):
    """Pools the features of a video into one vector for each soft token.

    `features` is `[B, T, cells, channels]`, `times` `[B, T]` in seconds, and `mask` `[B, T]` true
    where a frame is, false at padding.
    """

    def forward(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """Return `[B, tokens, width]`."""
        raise NotImplementedError

    def attention(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """The attention of each soft token, with the sum 1: `[B, tokens, T, cells]`."""
        raise NotImplementedError
