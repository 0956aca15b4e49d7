"""Soft tokens as mixtures of the LLM's own token embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WordMixture(nn.Module):
    """`[B, tokens, width]` -> `[B, tokens, n_embd]`: a softmax over words mixes their embeddings.

    Alignment trains `logits`: the most likely words of the soft tokens spell the caption or slots.
    `prior [tokens, words]` is a constant logit bias, for the words of an uncertain soft token.
    """

    prior: Tensor

    def __init__(self, width: int, tokens: int, words: int, n_embd: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, words)
        self.correction = nn.Linear(width, n_embd)
        nn.init.zeros_(self.correction.weight)
        nn.init.zeros_(self.correction.bias)
        self.embeddings = nn.Parameter(torch.zeros(words, n_embd))
        self.register_buffer("prior", torch.zeros(tokens, words))

    def logits(self, x: Tensor) -> Tensor:
        return self.score(self.norm(x)) + self.prior

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.logits(x).softmax(-1) @ self.embeddings
        return mixed + self.correction(self.norm(x))
