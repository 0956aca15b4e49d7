"""Logistic regression that tells real footage from drawn clips, by the mean of a video's features.

The projector was trained on drawn clips, and its slots (`reellama.models.projector.slots`) are
right about those only. So the concept model makes the soft tokens of real footage.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_ITERATIONS = 60  # of L-BFGS
L2_PENALTY = 1e-3  # on the weights of features with mean 0 and deviation 1


class FootageClassifier(nn.Module):
    """Mean features `[B, channels]` -> logits `[B]`, above 0 for real footage."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 1)

    def forward(self, mean_features: Tensor) -> Tensor:
        return self.linear(mean_features)[:, 0]

    def fit(self, footage: Tensor, drawn: Tensor) -> float:
        """Fit the layer to mean features `[clips, channels]` of footage and of drawn clips.

        Both classes have the same weight in the loss, whatever their sizes. Returns the accuracy on
        these clips.
        """
        features = torch.cat([footage, drawn]).float()
        labels = torch.cat([torch.ones(len(footage)), torch.zeros(len(drawn))])
        weights = torch.where(labels > 0, 0.5 / len(footage), 0.5 / len(drawn))
        mean, deviation = features.mean(0), features.std(0) + 1e-3
        scaled = (features - mean) / deviation
        weight = torch.zeros(features.shape[1], requires_grad=True)
        bias = torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [weight, bias], max_iter=MAX_ITERATIONS, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            losses = F.binary_cross_entropy_with_logits(
                scaled @ weight + bias, labels, reduction="none"
            )
            value = (losses * weights).sum() + L2_PENALTY * weight.square().sum()
            value.backward()
            return value

        optimizer.step(loss)
        with torch.no_grad():
            self.linear.weight.copy_((weight / deviation)[None])
            self.linear.bias.copy_(bias - (weight / deviation) @ mean)
            return ((self(features) > 0) == (labels > 0)).float().mean().item()


def mean_features(features: Tensor, mask: Tensor) -> Tensor:
    """The mean over cells and frames of `features [B, T, cells, channels]`: `[B, channels]`."""
    frames = features.mean(2) * mask[..., None]
    return frames.sum(1) / mask.sum(1, keepdim=True)
