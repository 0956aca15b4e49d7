"""How sure the model was: the softmax of its logits, for a few tokens out of a vocabulary."""

from __future__ import annotations

import math

import numpy as np

# The n likeliest tokens are at least as likely as the n-th of the maxima of blocks of this size.
# Few tokens reach this bound, and only those are sorted.
BLOCK = 64


class TokenProbabilities:
    """Probabilities under the model's own softmax (temperature 1, before any sampler).

    Keeps its scratch memory, for it runs once a token.
    """

    def __init__(self, n_vocab: int):
        self._exp = np.empty(n_vocab, np.float32)
        self._logits = self._exp
        self._log_sum = 0.0

    def best(self, logits: np.ndarray, n: int) -> list[tuple[int, float]]:
        """The `n` likeliest token ids with their probabilities, best first. logits: [n_vocab]."""
        self._logits = logits
        top = logits.max()
        np.subtract(logits, top, out=self._exp)
        np.exp(self._exp, out=self._exp)
        self._log_sum = float(top) + math.log(float(self._exp.sum()))
        ids = np.flatnonzero(logits >= _bound(logits, n)).tolist()
        ids.sort(key=logits.__getitem__, reverse=True)
        return [(token, self.of(token)) for token in ids[:n]]

    def of(self, token: int) -> float:
        """The probability of `token` under the logits last given to `best`, which must be there."""
        return math.exp(float(self._logits[token]) - self._log_sum)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities, float64, of logits [n, n_vocab]."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _bound(logits: np.ndarray, n: int) -> float:
    """A logit that at least `n` of them reach, and few more."""
    n_blocks = len(logits) // BLOCK
    if n_blocks < n:
        return -math.inf
    # A block is a column: numpy is fast at those.
    maxima = logits[: n_blocks * BLOCK].reshape(BLOCK, n_blocks).max(axis=0)
    return float(np.partition(maxima, -n)[-n])
