"""The sizes of the concept model, which makes the soft tokens of real footage."""

from __future__ import annotations

from dataclasses import dataclass

from reellama.models.projector.config import ProjectorConfig

# Files of the concept model in a bundle.
WEIGHTS, VOCABULARY = "concepts.safetensors", "concepts.json"
# Prefixes of the tensors' names in WEIGHTS.
TOKENS, CLASSIFIER = "tokens", "footage"


@dataclass(frozen=True)
class ConceptConfig:
    """The `concepts` object of `bundle.json`.

    Attributes:
        concepts: number of words in the vocabulary.
        channels, cells: width and number of cells of the tower's grid.
        n_embd: width of the LLM's token embeddings.
        named: number of concepts that become soft tokens, the likeliest first.
        free: number of the resampler's soft tokens, which follow them.
        width, dropout: of the concept head.
        free_width, layers, heads: of the resampler.
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
        """Configuration of the projector that makes the free tokens."""
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
