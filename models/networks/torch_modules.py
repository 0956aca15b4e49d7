"""The networks of a bundle as torch modules of one video's arrays: what is exported."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reellama.models.concepts.concept_tokens import ConceptTokens
from reellama.models.projector.temporal_projector import Projector
from reellama.models.vision.encoder import forward_grid, grid_layers, pixel_scale


class _OfPixels(nn.Module):
    """What takes uint8 pixels `[T, size, size, 3]` to the image tower `visual` of a CLIP.

    In float32 and with the weights as they are in their file.
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
        return (pixels.permute(0, 3, 1, 2).float() - self.pixel_mean) / self.pixel_deviation


class TowerModule(_OfPixels):
    """Pixels -> features `[T, cells, channels]`, as `Tower.grid`."""

    def __init__(self, visual: nn.Module, layer: int, fine_layers: int) -> None:
        super().__init__(visual)
        self.layers = grid_layers(layer, fine_layers)

    def forward(self, pixels: Tensor) -> Tensor:
        return forward_grid(self.visual, self.scaled(pixels), self.layers)


class ImageEmbeddingModule(_OfPixels):
    """Pixels -> L2-normalized embeddings `[T, d]`, as `Tower.embed_images`."""

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

    Of what takes batches with a mask, as a projector does.
    """

    def __init__(self, batched: nn.Module) -> None:
        super().__init__()
        self.batched = batched

    def forward(self, features: Tensor, times: Tensor) -> Tensor:
        return self.batched(*_batch(features, times))[0]


class ProjectorReadingModule(nn.Module):
    """As `SoftTokenModule`, but what the tokens say, `[tokens, words]`, and where they look,
    `[tokens, T, cells]`."""

    def __init__(self, batched: Projector) -> None:
        super().__init__()
        self.batched = batched

    def forward(self, features: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        batch = _batch(features, times)
        return self.batched.word_probabilities(*batch)[0], self.batched.attention(*batch)[0]


class ConceptReadingModule(nn.Module):
    """As `ProjectorReadingModule` for the free tokens, after what is seen: the probability of each
    concept `[concepts]`, and how much each cell speaks for it, `[T, cells, concepts]`."""

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
    """Features `[T, cells, channels]` -> how likely each concept is in each frame by itself,
    `[T, concepts]`."""

    def __init__(self, batched: ConceptTokens) -> None:
        super().__init__()
        self.batched = batched

    def forward(self, features: Tensor) -> Tensor:
        mask = torch.ones_like(features[:, :1, 0], dtype=torch.bool)
        return self.batched.head.probabilities(features[:, None], mask)


def _batch(features: Tensor, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A batch of one video, and its mask."""
    mask = torch.ones_like(times, dtype=torch.bool)
    return features[None], times[None], mask[None]
