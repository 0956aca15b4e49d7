"""The softmax of a model's logits, for the few likeliest tokens of a vocabulary."""

from __future__ import annotations

import math

import numpy as np

# The n-th largest of the maxima of blocks of this size is a lower bound of the n largest logits.
# Few tokens reach it, and only those are sorted.
BLOCK = 64


class TokenProbabilities:
    """Probabilities under the model's own softmax (temperature 1, before any sampler).

    Reuses its buffer, since it runs for every token.
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
        """The probability of `token` under the logits of the last call of `best`."""
        return math.exp(float(self._logits[token]) - self._log_sum)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities, float64, of logits [n, n_vocab]."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _bound(logits: np.ndarray, n: int) -> float:
    """A lower bound of the `n` largest logits, which few others reach."""
    n_blocks = len(logits) // BLOCK
    if n_blocks < n:
        return -math.inf
    # Each column is a block: the maximum over the first axis is fast in numpy.
    maxima = logits[: n_blocks * BLOCK].reshape(BLOCK, n_blocks).max(axis=0)
    return float(np.partition(maxima, -n)[-n])
