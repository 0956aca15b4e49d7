"""A new projector, whose word mixture has the LLM's token embeddings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from reellama.models.projector.config import ProjectorConfig
from reellama.models.projector.temporal_projector import Projector
from reellama.models.training.config import ProjectorSettings
from reellama.models.training.frozen_llm import FrozenLLM


def initial_projector(
    settings: ProjectorSettings,
    llm: FrozenLLM,
    word_ids: Sequence[int],
    cells: int,
    channels: int,
    seed: int,
) -> Projector:
    """A projector for features `[T, cells, channels]` that mixes the embeddings of `word_ids`."""
    chosen = {**dataclasses.asdict(settings), "words": len(word_ids)}
    torch.manual_seed(seed)
    projector = Projector(
        ProjectorConfig(**chosen, n_embd=llm.n_embd, channels=channels, cells=cells)
    )
    with torch.no_grad():
        projector.word_mixture.embeddings.copy_(llm.embed(word_ids).float())
    return projector
