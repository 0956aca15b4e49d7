"""Quality measures from logits: perplexity, KL divergence, agreement of the most likely tokens.

The definitions are those of llama.cpp's `llama-perplexity`, so that figures are comparable with
published ones. All functions take NumPy arrays of logits.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

# llama.cpp stores log-probabilities of a reference down to 16 below the largest, and leaves tokens
# less likely than e^-16 (one in nine million) out of the sum of the KL divergence.
MIN_LOG_PROBABILITY = -16.0
SLICE_ELEMENTS = 1 << 19  # logits in a step; they fit the processor's cache


class Estimate(NamedTuple):
    """A value and its standard error, from the spread over the tokens that were scored."""

    value: float
    error: float


class TokenDifferences(NamedTuple):
    """Differences between a model and a reference for each scored token; arrays of `[n]`."""

    nll: np.ndarray  # float64, nats, the model's
    nll_reference: np.ndarray  # float64, nats
    kl: np.ndarray  # float64, nats: of the model's distribution from the reference's
    p_diff: np.ndarray  # float64: the token's probability, the model's less the reference's
    same_top: np.ndarray  # bool: whether both have the same most likely token


def negative_log_likelihoods(logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Return -ln p of `tokens` `[n]` under `logits` float32 `[n, n_vocab]`: float64 `[n]`."""
    nll = np.empty(len(tokens))
    for rows in _slices(logits):
        scaled, log_sum = _log_sum_exp(logits[rows])[1:]
        nll[rows] = log_sum - scaled[np.arange(len(log_sum)), tokens[rows]]
    return nll


def token_differences(
    logits: np.ndarray, reference: np.ndarray, tokens: np.ndarray
) -> TokenDifferences:
    """Compare two models' logits, float32 `[n, n_vocab]`, for the same positions.

    `tokens` `[n]` are those that really come next.
    """
    parts = [
        _differences(logits[rows], _log_sum_exp(reference[rows]), tokens[rows])
        for rows in _slices(logits)
    ]
    return concatenate_differences(parts)


def differences_from_saved(
    logits: np.ndarray, log_probabilities: np.ndarray, tokens: np.ndarray
) -> TokenDifferences:
    """As `token_differences`, from a reference's log-probabilities, float32 `[n, n_vocab]`.

    They are not normalized again, as in llama-perplexity, although after rounding the probabilities
    sum to one only approximately.
    """
    parts = []
    for rows in _slices(logits):
        saved = log_probabilities[rows]
        normalized = (np.exp(saved), saved, np.zeros(len(saved)))
        parts.append(_differences(logits[rows], normalized, tokens[rows]))
    return concatenate_differences(parts)


def concatenate_differences(parts: list[TokenDifferences]) -> TokenDifferences:
    """Return the differences of all parts as one."""
    return TokenDifferences(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _differences(
    logits: np.ndarray, reference: tuple[np.ndarray, np.ndarray, np.ndarray], tokens: np.ndarray
) -> TokenDifferences:
    """`token_differences` of one slice. reference: from `_log_sum_exp`; its arrays are modified."""
    row = np.arange(len(tokens))
    _, scaled, log_sum = _log_sum_exp(logits)
    weights, scaled_reference, log_sum_reference = reference
    top, top_reference = (array.argmax(axis=1) for array in (scaled, scaled_reference))
    nll = log_sum - scaled[row, tokens]
    nll_reference = log_sum_reference - scaled_reference[row, tokens]

    # KL = sum of p (ln p - ln q), where ln p - ln q = (a - log_sum_a) - (b - log_sum_b). To take
    # the difference of the logits first avoids a loss of precision for similar models.
    weights[scaled_reference < (log_sum_reference + MIN_LOG_PROBABILITY)[:, None]] = 0
    total = np.exp(log_sum_reference)
    covered = weights.sum(axis=1, dtype=np.float64) / total  # share of p that is not left out
    np.subtract(scaled_reference, scaled, out=scaled)
    np.multiply(weights, scaled, out=weights)
    kl = weights.sum(axis=1, dtype=np.float64) / total - covered * (log_sum_reference - log_sum)
    return TokenDifferences(
        nll, nll_reference, kl, np.exp(-nll) - np.exp(-nll_reference), top == top_reference
    )


def _slices(logits: np.ndarray) -> list[slice]:
    step = max(1, SLICE_ELEMENTS // logits.shape[1])
    return [slice(start, start + step) for start in range(0, len(logits), step)]


def _log_sum_exp(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return exp(x), x and ln(sum of exp(x)), where x is the logits minus the maximum of a row."""
    scaled = logits - logits.max(axis=1, keepdims=True)
    weights = np.exp(scaled)
    return weights, scaled, np.log(weights.sum(axis=1, dtype=np.float64))


def mean(values: np.ndarray) -> Estimate:
    """Return the mean of `values` `[n]` with its standard error."""
    return Estimate(float(values.mean()), math.sqrt(_variance_of_mean(values, values)))


def perplexity(nll: np.ndarray) -> Estimate:
    """Return exp of the mean negative log-likelihood, the error by its first derivative."""
    average = mean(nll)
    value = math.exp(average.value)
    return Estimate(value, value * average.error)


def log_ratio(nll: np.ndarray, nll_reference: np.ndarray) -> Estimate:
    """Return ln of a perplexity over the reference's.

    Losses of both models correlate, so the error is far smaller than either perplexity's.
    """
    return mean(nll - nll_reference)


def root_mean_square(values: np.ndarray) -> Estimate:
    """Return the root of the mean of squares, the error by its first derivative."""
    squares = mean(values**2)
    root = math.sqrt(squares.value)
    return Estimate(root, 0.5 * squares.error / root if root else 0.0)


def _variance_of_mean(a: np.ndarray, b: np.ndarray) -> float:
    n = len(a)
    return max(0.0, float((a * b).mean() - a.mean() * b.mean())) / (n - 1) if n > 1 else 0.0
