"""Soft tokens as mixtures of the LLM's own token embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from reellama.models.projector.renamed_weights import RenamedWeights


class WordMixture(RenamedWeights):
    """`[B, tokens, width]` -> `[B, tokens, n_embd]`: a softmax over words mixes their embeddings.

    The `align` phase trains `logits`, so that the most likely words of the soft tokens spell the
    caption or the slots. `logit_bias [tokens, words]` is a constant that favours words such as
    "something" in soft tokens that are uncertain.
    """

    old_names: ClassVar[Mapping[str, str]] = {"prior": "logit_bias"}
    logit_bias: Tensor

    def __init__(self, width: int, tokens: int, words: int, n_embd: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, words)
        self.correction = nn.Linear(width, n_embd)
        nn.init.zeros_(self.correction.weight)
        nn.init.zeros_(self.correction.bias)
        self.embeddings = nn.Parameter(torch.zeros(words, n_embd))
        self.register_buffer("logit_bias", torch.zeros(tokens, words))
        self.register_load_state_dict_pre_hook(_without_logit_bias)

    def logits(self, x: Tensor) -> Tensor:
        """Logits of the words, `[B, tokens, words]`."""
        return self.score(self.norm(x)) + self.logit_bias

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.logits(x).softmax(-1) @ self.embeddings
        return mixed + self.correction(self.norm(x))


def _without_logit_bias(
    module: WordMixture, weights: dict[str, Tensor], prefix: str, *_: object
) -> None:
    """Fill in the logit bias, which older files lack; a pre-hook of `load_state_dict`."""
    weights.setdefault(f"{prefix}logit_bias", torch.zeros_like(module.logit_bias))
