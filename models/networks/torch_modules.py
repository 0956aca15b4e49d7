"""The networks of a bundle as torch modules of one video's arrays: what is exported."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reellama.models.vision.encoder import forward_grid, grid_layers, pixel_scale


class TowerModule(nn.Module):
    """uint8 pixels `[T, size, size, 3]` -> features `[T, cells, channels]` of a CLIP's image tower.

    As `Tower.grid`, in float32 and with the weights as they are in their file.
    """

    def __init__(self, visual: nn.Module, layer: int, finer: int) -> None:
        super().__init__()
        self.visual = visual
        self.layers = grid_layers(layer, finer)
        mean, deviation = pixel_scale(visual)
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, pixels: Tensor) -> Tensor:
        scaled = (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.deviation
        return forward_grid(self.visual, scaled, self.layers)


class SoftTokenModule(nn.Module):
    """Features `[T, cells, channels]` at `times [T]` seconds -> soft tokens `[tokens, n_embd]`.

    Of what takes batches with a mask, as a projector does.
    """

    def __init__(self, batched: nn.Module) -> None:
        super().__init__()
        self.batched = batched

    def forward(self, features: Tensor, times: Tensor) -> Tensor:
        mask = torch.ones_like(times, dtype=torch.bool)
        return self.batched(features[None], times[None], mask[None])[0]
