"""The sizes of the concept model, which makes the soft tokens of real footage."""

from __future__ import annotations

from dataclasses import dataclass

from reellama.models.projector.config import ProjectorConfig

# Their weights in a bundle, and what the names there begin with.
WEIGHTS, VOCABULARY = "concepts.safetensors", "concepts.json"
TOKENS, CLASSIFIER = "tokens", "footage"


@dataclass(frozen=True)
class ConceptConfig:
    """The `concepts` object of `bundle.json`.

    Attributes:
        concepts: words of the vocabulary.
        named: likeliest concepts that become soft tokens, the likeliest first.
        free: soft tokens of the resampler after them.
        width: of the concept head; `free_width`, `layers` and `heads` are the resampler's.
    """

    concepts: int
    channels: int
    cells: int
    n_embd: int
    named: int = 20
    free: int = 12
    width: int = 512
    dropout: float = 0.3
    free_width: int = 256
    layers: int = 2
    heads: int = 4

    @property
    def tokens(self) -> int:
        """Soft tokens of a video."""
        return self.named + self.free

    @property
    def resampler(self) -> ProjectorConfig:
        """The projector of the free tokens."""
        return ProjectorConfig(
            tokens=self.free,
            n_embd=self.n_embd,
            channels=self.channels,
            cells=self.cells,
            words=self.concepts,
            width=self.free_width,
            layers=self.layers,
            heads=self.heads,
            dropout=0.1,
        )
