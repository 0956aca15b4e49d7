"""The networks of a bundle as torch modules for export: they take one video, without a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reellama.models.concepts.concept_tokens import ConceptTokens
from reellama.models.projector.temporal_projector import Projector
from reellama.models.vision.encoder import forward_grid, grid_layers, pixel_scale


class _PixelModule(nn.Module):
    """CLIP's image tower `visual`, with a float32 input scaled from uint8 pixels.

    The scaling is a step of its own, so that the weights are those of the weights file.
    """

    pixel_mean: Tensor
    pixel_deviation: Tensor

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual
        mean, deviation = pixel_scale(visual)
        self.register_buffer("pixel_mean", mean)
        self.register_buffer("pixel_deviation", deviation)

    def scaled(self, pixels: Tensor) -> Tensor:
        """uint8 pixels `[T, size, size, 3]` -> the tower's input `[T, 3, size, size]`."""
        return (pixels.permute(0, 3, 1, 2).float() - self.pixel_mean) / self.pixel_deviation


class TowerModule(_PixelModule):
    """Pixels `[T, size, size, 3]` -> features `[T, cells, channels]`, as `Tower.grid`."""

    def __init__(self, visual: nn.Module, layer: int, fine_layers: int) -> None:
        super().__init__(visual)
        self.layers = grid_layers(layer, fine_layers)

    def forward(self, pixels: Tensor) -> Tensor:
        return forward_grid(self.visual, self.scaled(pixels), self.layers)


class ImageEmbeddingModule(_PixelModule):
    """Pixels `[T, size, size, 3]` -> L2-normalized embeddings `[T, d]`, as
    `Tower.embed_images`."""

    def forward(self, pixels: Tensor) -> Tensor:
        return nn.functional.normalize(self.visual(self.scaled(pixels)), dim=-1)


class TextEmbeddingModule(nn.Module):
    """Token ids int64 `[texts, context]` -> L2-normalized embeddings `[texts, d]`, as
    `Tower.embed_texts`."""

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, ids: Tensor) -> Tensor:
        return self.clip.encode_text(ids, normalize=True)


class SoftTokenModule(nn.Module):
    """Features `[T, cells, channels]` at `times [T]` seconds -> soft tokens `[tokens, n_embd]`.

    batched: a `Projector` or `ConceptTokens`, which take a batch and its mask.
    """

    def __init__(self, batched: nn.Module) -> None:
        super().__init__()
        self.batched = batched

    def forward(self, features: Tensor, times: Tensor) -> Tensor:
        return self.batched(*_batch(features, times))[0]


class ProjectorReadingModule(nn.Module):
    """Inputs as `SoftTokenModule` -> word probabilities `[tokens, words]` and attention
    `[tokens, T, cells]` of the soft tokens."""

    def __init__(self, batched: Projector) -> None:
        super().__init__()
        self.batched = batched

    def forward(self, features: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        batch = _batch(features, times)
        return self.batched.word_probabilities(*batch)[0], self.batched.attention(*batch)[0]


class ConceptReadingModule(nn.Module):
    """Inputs as `SoftTokenModule` -> probabilities of the concepts `[concepts]`, their logits in
    each cell `[T, cells, concepts]`, and word probabilities `[free, concepts]` and attention
    `[free, T, cells]` of the free tokens."""

    def __init__(self, batched: ConceptTokens) -> None:
        super().__init__()
        self.batched = batched

    def forward(self, features: Tensor, times: Tensor) -> tuple[Tensor, ...]:
        grid, seconds, mask = _batch(features, times)
        head, free = self.batched.head, self.batched.free
        return (
            head.probabilities(grid, mask)[0],
            head.cell_logits(grid)[0],
            free.word_probabilities(grid, seconds, mask)[0],
            free.attention(grid, seconds, mask)[0],
        )


class FrameConceptsModule(nn.Module):
    """Features `[T, cells, channels]` -> probabilities of the concepts in each frame by itself,
    `[T, concepts]`."""

    def __init__(self, batched: ConceptTokens) -> None:
        super().__init__()
        self.batched = batched

    def forward(self, features: Tensor) -> Tensor:
        mask = torch.ones_like(features[:, :1, 0], dtype=torch.bool)  # [T, 1]: T videos of a frame
        return self.batched.head.probabilities(features[:, None], mask)


def _batch(features: Tensor, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A batch of one video: features, times and a mask without padding."""
    mask = torch.ones_like(times, dtype=torch.bool)
    return features[None], times[None], mask[None]
