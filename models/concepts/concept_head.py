"""The concept head: features of a video -> how likely its captions say each concept.

Every cell of every frame is scored for every concept, and the scores are pooled over all of them, a
soft form of noisy-OR multiple-instance learning (Fang et al., 2015, "From captions to visual
concepts and back"): captions say what is in a video, not where. A second part looks at the mean and
the maximum of all cells, for places and actions, which no single cell shows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INITIAL_LOGIT = -4.0  # low, as most concepts are in few videos
PADDING_LOGIT = -1e4


class ConceptHead(nn.Module):
    """`features [B, T, cells, channels]` and `mask [B, T]` -> logits `[B, concepts]`.

    `mean` and `deviation [channels]` are those of the features it was trained on; `calibration`
    holds a slope and an offset of the logits, fitted on validation videos (Platt, 1999);
    `base_rates [concepts]` is how often captions of a video say each concept.
    """

    mean: Tensor
    deviation: Tensor
    calibration: Tensor
    base_rates: Tensor

    def __init__(
        self, channels: int, concepts: int, width: int = 512, dropout: float = 0.3
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))
        self.register_buffer("base_rates", torch.full((concepts,), 0.01))
        self.cell = nn.Linear(channels, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.cell_score = nn.Linear(width, concepts)
        self.whole = nn.Linear(2 * width, width)
        self.whole_score = nn.Linear(width, concepts)
        nn.init.constant_(self.cell_score.bias, INITIAL_LOGIT)

    def _cells(self, features: Tensor) -> Tensor:
        """`[B, T, cells, width]`."""
        scaled = (features - self.mean) / self.deviation
        return self.dropout(F.gelu(self.norm(self.cell(scaled))))

    def cell_logits(self, features: Tensor) -> Tensor:
        """How much each cell speaks for each concept: `[B, T, cells, concepts]`."""
        return self.cell_score(self._cells(features))

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        cells = self._cells(features)
        x = cells.flatten(1, 2)  # [B, T * cells, width]
        cell_mask = mask.repeat_interleave(features.shape[2], dim=1)[..., None]  # [B, T * cells, 1]
        count = cell_mask.sum(1)  # [B, 1]
        scores = self.cell_score(x).float().masked_fill(~cell_mask, PADDING_LOGIT)
        local = scores.logsumexp(1) - count.log()
        mean = (x * cell_mask).sum(1) / count
        maximum = x.masked_fill(~cell_mask, PADDING_LOGIT).amax(1)
        whole = self.dropout(F.gelu(self.whole(torch.cat([mean, maximum], dim=-1))))
        slope, offset = self.calibration
        return (local + self.whole_score(whole).float()) * slope + offset

    def probabilities(self, features: Tensor, mask: Tensor) -> Tensor:
        """`[B, concepts]`."""
        return self.forward(features, mask).sigmoid()
