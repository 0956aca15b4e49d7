"""Soft tokens as mixtures of the LLM's own token embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WordMixture(nn.Module):
    """`[B, tokens, width]` -> `[B, tokens, n_embd]`: a softmax over words mixes their embeddings.

    `logits` is what alignment trains: the i-th soft token should be the i-th word of the caption.
    `prior [tokens, words]` is added to them and is not learned: what a soft token says when it is
    not sure.
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
