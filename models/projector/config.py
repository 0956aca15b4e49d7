"""The configuration of a projector, as bundle.json has it."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class ProjectorConfig:
    """The `projector` object of `bundle.json`."""

    kind: str = "resampler"  # "resampler", "mean" or "frame"
    tokens: int = 24  # soft tokens a video
    n_embd: int = 576  # width of the LLM's token embeddings
    channels: int = 320  # width of the tower's grid
    cells: int = 36  # cells of the tower's grid
    words: int = 1024  # rows of the word mixture
    width: int = 384
    layers: int = 2
    heads: int = 6
    dropout: float = 0.1
    encoder: int = 0  # layers in which the cells of all frames look at each other

    def to_json(self) -> dict[str, object]:
        return asdict(self)
