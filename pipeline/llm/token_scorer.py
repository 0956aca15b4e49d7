"""Tokens as the model chooses them: their bytes, and how likely they were, before they are text."""

from __future__ import annotations

import math

import numpy as np

from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.pipeline.llm.token_probabilities import TokenProbabilities

ScoredToken = tuple[int, float, list[tuple[str, float]]]  # a Token whose text is not certain yet


class TokenScorer:
    """Makes drafts of tokens. Keeps what it has looked up, for it runs once a token."""

    def __init__(self, tokenizer: Tokenizer, n_vocab: int) -> None:
        self._tokenizer = tokenizer
        self._probabilities = TokenProbabilities(n_vocab)
        self._pieces: dict[int, bytes] = {}

    def best(self, logits: np.ndarray, n: int) -> list[tuple[int, float]]:
        """The `n` likeliest ids with their probabilities, best first; none for 0. [n_vocab]."""
        return self._probabilities.best(logits, n) if n else []

    def score(self, token: int, best: list[tuple[int, float]]) -> ScoredToken:
        """A token with its alternatives, `best` of the logits that it was chosen from."""
        if not best:
            return token, math.nan, []
        alternatives = [(self.piece(i).decode(errors="replace"), p) for i, p in best]
        return token, self._probabilities.of(token), alternatives

    def piece(self, token: int) -> bytes:
        """The bytes of a token."""
        if (piece := self._pieces.get(token)) is None:
            piece = self._pieces[token] = self._tokenizer.piece(token)
        return piece
