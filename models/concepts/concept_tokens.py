"""Soft tokens of real footage: one for each of the likeliest concepts, then free tokens.

A concept's token is the LLM's own embedding of the word plus a learned direction, scaled by the
concept's probability. A list of words does not say who does what to whom. Free tokens can: they
come from a resampler over all cells of all frames (Perceiver, Jaegle et al., 2021), and are
mixtures of the concepts' words as well.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reellama.models.concepts.concept_config import ConceptConfig
from reellama.models.concepts.concept_head import ConceptHead
from reellama.models.projector.temporal_projector import Projector


class ConceptTokens(nn.Module):
    """`features [B, T, cells, channels]`, `times [B, T]` and `mask [B, T]`, as in a `Projector`, ->
    soft tokens `[B, tokens, n_embd]`."""

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__()
        self.config = config
        self.head = ConceptHead(config.channels, config.concepts, config.width, config.dropout)
        self.words = nn.Parameter(torch.zeros(config.concepts, config.n_embd))
        # Added to a named token: row 0 times the concept's probability, and row 1.
        self.likely = nn.Parameter(torch.zeros(2, config.n_embd))
        self.free = Projector(config.resampler)

    def init_words(self, embeddings: Tensor) -> None:
        """Initialize with the LLM's embeddings of the concepts' words `[concepts, n_embd]`."""
        with torch.no_grad():
            self.words.copy_(embeddings)
            self.free.word_mixture.embeddings.copy_(embeddings)

    def forward(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        with torch.no_grad():  # the head learns from captions, not through the LLM
            probabilities = self.head.probabilities(features, mask)
        return self.soft_tokens(probabilities, features, times, mask)

    def soft_tokens(
        self, probabilities: Tensor, features: Tensor, times: Tensor, mask: Tensor
    ) -> Tensor:
        """As `forward`, with concept probabilities `[B, concepts]` that were computed before."""
        return torch.cat([self.named(probabilities), self.free(features, times, mask)], dim=1)

    def named(self, probabilities: Tensor) -> Tensor:
        """Tokens of the likeliest concepts `[B, named, n_embd]`."""
        top, concepts = probabilities.topk(self.config.named, dim=1)  # [B, named]
        return self.words[concepts] + top[..., None] * self.likely[0] + self.likely[1]
