"""The concept head: features of a video -> the probability that its captions say each concept.

Captions say what is in a video, not where. So every cell of every frame is scored for every concept
and the scores are pooled over all cells: a soft form of noisy-OR multiple-instance learning (Fang
et al., 2015, "From captions to visual concepts and back"). A second branch scores the mean and the
maximum of all cells, for places and actions, which no single cell shows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INITIAL_LOGIT = -4.0  # a probability of 2%: most concepts are in few videos
PADDING_LOGIT = -1e4  # far below any real logit, so padding adds nothing to the pooled scores


class ConceptHead(nn.Module):
    """`features [B, T, cells, channels]` and `mask [B, T]` -> logits `[B, concepts]`.

    Buffers:
        mean, deviation: of the training features, `[channels]`.
        calibration: slope and offset of the logits, fitted on validation videos (Platt, 1999).
        base_rates: mean share of a video's captions that say each concept, `[concepts]`.
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
        """Hidden vectors of all cells, `[B, T, cells, width]`."""
        scaled = (features - self.mean) / self.deviation
        return self.dropout(F.gelu(self.norm(self.cell(scaled))))

    def cell_logits(self, features: Tensor) -> Tensor:
        """Logits of each concept in each cell, `[B, T, cells, concepts]`."""
        return self.cell_score(self._cells(features))

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        cells = self._cells(features)
        x = cells.flatten(1, 2)  # [B, T * cells, width]
        cell_mask = mask.repeat_interleave(features.shape[2], dim=1)[..., None]  # [B, T * cells, 1]
        count = cell_mask.sum(1)  # [B, 1]
        scores = self.cell_score(x).float().masked_fill(~cell_mask, PADDING_LOGIT)
        local = scores.logsumexp(1) - count.log()  # [B, concepts]
        mean = (x * cell_mask).sum(1) / count  # [B, width]
        maximum = x.masked_fill(~cell_mask, PADDING_LOGIT).amax(1)  # [B, width]
        whole = self.dropout(F.gelu(self.whole(torch.cat([mean, maximum], dim=-1))))
        slope, offset = self.calibration
        return (local + self.whole_score(whole).float()) * slope + offset

    def probabilities(self, features: Tensor, mask: Tensor) -> Tensor:
        """Calibrated probabilities of the concepts, `[B, concepts]`."""
        return self.forward(features, mask).sigmoid()
