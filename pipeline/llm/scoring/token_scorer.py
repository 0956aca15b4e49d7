"""Adds bytes, probability and alternatives to sampled token ids."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from reellama.gguf_tools.text.tokenizer import Tokenizer
from reellama.pipeline.llm.scoring.token_probabilities import TokenProbabilities


@dataclass(frozen=True)
class Token:
    """One generated token.

    `text` is what the token adds to the answer, in whole characters: it is empty for a token that
    ends inside of a character. `p` is its probability in the model's own softmax (temperature 1,
    before penalties, grammar and other samplers), nan if n_probs is 0. `alternatives` are the
    likeliest tokens, best first, which may include the token itself. `piece` and
    `alternative_pieces` are the bytes of these tokens, which may be incomplete characters.
    """

    id: int
    text: str
    p: float
    alternatives: list[tuple[str, float]]
    piece: bytes = b""
    alternative_pieces: tuple[bytes, ...] = ()


class ScoredToken(NamedTuple):
    """A Token whose text is not certain yet."""

    id: int
    p: float
    best: list[tuple[int, float]]
    piece: bytes
    best_pieces: tuple[bytes, ...]

    def with_text(self, text: str) -> Token:
        """The token with its text."""
        alternatives = [
            (piece.decode(errors="replace"), p)
            for piece, (_, p) in zip(self.best_pieces, self.best, strict=True)
        ]
        return Token(self.id, text, self.p, alternatives, self.piece, self.best_pieces)


class TokenScorer:
    """Turns chosen token ids into `ScoredToken`s: bytes, probability, alternatives.

    Caches the bytes of tokens, since it runs for every token.
    """

    def __init__(self, tokenizer: Tokenizer, n_vocab: int) -> None:
        self._tokenizer = tokenizer
        self._probabilities = TokenProbabilities(n_vocab)
        self._pieces: dict[int, bytes] = {}

    def best(self, logits: np.ndarray, n: int) -> list[tuple[int, float]]:
        """The `n` likeliest ids with their probabilities, best first. logits: `[n_vocab]`."""
        return self._probabilities.best(logits, n) if n else []

    def score(
        self, token: int, best: list[tuple[int, float]], visible_special_ids: Collection[int] = ()
    ) -> ScoredToken:
        """Score a token by `best` of the logits that it was sampled from.

        Special tokens have no bytes, except for `visible_special_ids`, whose bytes are their names.
        """
        p = self._probabilities.of(token) if best else math.nan
        pieces = tuple(self.piece(i) for i, _ in best)
        is_visible = token in visible_special_ids
        piece = self._tokenizer.piece(token, special=True) if is_visible else self.piece(token)
        return ScoredToken(token, p, best, piece, pieces)

    def piece(self, token: int) -> bytes:
        """The bytes of a token."""
        if (piece := self._pieces.get(token)) is None:
            piece = self._pieces[token] = self._tokenizer.piece(token)
        return piece
