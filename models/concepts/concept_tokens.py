"""Soft tokens of what is seen: the likeliest concepts as words of the LLM, then free tokens.

A concept's token is the LLM's own embedding of its word plus a learned direction that says how
likely it is. What a list of words loses, such as who does what to whom, is left to free tokens: a
resampler over all cells of all frames (Perceiver, Jaegle et al., 2021), whose tokens mix the words
of the concepts as well.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reellama.models.concepts.concept_config import ConceptConfig
from reellama.models.concepts.concept_head import ConceptHead
from reellama.models.projector.temporal_projector import Projector


class ConceptTokens(nn.Module):
    """Features, times and mask of videos, as a projector takes them -> `[B, tokens, n_embd]`."""

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__()
        self.config = config
        self.head = ConceptHead(config.channels, config.concepts, config.width, config.dropout)
        self.words = nn.Parameter(torch.zeros(config.concepts, config.n_embd))
        self.likely = nn.Parameter(torch.zeros(2, config.n_embd))  # of the probability, and always
        self.free = Projector(config.resampler)

    def take_words(self, embeddings: Tensor) -> None:
        """Begin with the LLM's embeddings of the concepts' words `[concepts, n_embd]`."""
        with torch.no_grad():
            self.words.copy_(embeddings)
            self.free.word_mixture.embeddings.copy_(embeddings)

    def forward(self, features: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        with torch.no_grad():  # of the head: it learns from captions, not through the LLM
            probabilities = self.head.probabilities(features, mask)
        return self.soft_tokens(probabilities, features, times, mask)

    def soft_tokens(
        self, probabilities: Tensor, features: Tensor, times: Tensor, mask: Tensor
    ) -> Tensor:
        """As `forward`, of concept probabilities `[B, concepts]` that are known."""
        return torch.cat([self.named(probabilities), self.free(features, times, mask)], dim=1)

    def named(self, probabilities: Tensor) -> Tensor:
        """Tokens of the likeliest concepts `[B, named, n_embd]`."""
        most, numbers = probabilities.topk(self.config.named, dim=1)
        return self.words[numbers] + most[..., None] * self.likely[0] + self.likely[1]
