"""The configuration of a projector."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class ProjectorConfig:
    """The `projector` object of `bundle.json`."""

    kind: str = "resampler"  # pooling: a key of `temporal_projector.POOLERS`
    tokens: int = 24  # soft tokens of a video
    n_embd: int = 576  # width of the LLM's token embeddings
    channels: int = 320  # width of the tower's grid
    cells: int = 36  # cells of the tower's grid
    words: int = 1024  # rows of the word mixture
    width: int = 384
    layers: int = 2
    heads: int = 6
    dropout: float = 0.1
    encoder: int = 0  # layers of self-attention over the cells of all frames

    def to_json(self) -> dict[str, object]:
        return asdict(self)
