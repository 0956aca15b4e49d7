"""Log-probabilities of tokens, in the shape of OpenAI's and Ollama's protocols."""

from __future__ import annotations

import math
from typing import Any

from reellama.pipeline.llm.scoring.token_scorer import Token

# Stands for the logarithm of 0, which JSON cannot hold; a float32 softmax gives no probability that
# is smaller but not 0.
MIN_LOGPROB = -9999.0


def token_logprobs(token: Token, n_top: int | None) -> dict[str, Any]:
    """A token's log-probability, and a list of the `n_top` likeliest tokens unless that is None."""
    entry = _logprob(token.piece, token.p)
    if n_top is None:
        return entry
    likeliest = zip(token.alternative_pieces, token.alternatives, strict=True)
    return {**entry, "top_logprobs": [_logprob(piece, p) for piece, (_, p) in likeliest][:n_top]}


def shown_piece(piece: bytes) -> str:
    r"""A token's bytes as text, or as OpenAI shows bytes that are not whole characters.

    >>> shown_piece("fünf".encode()), shown_piece("€".encode()[:2])
    ('fünf', 'bytes:\\xe2\\x82')
    """
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def _logprob(piece: bytes, p: float) -> dict[str, Any]:
    logprob = math.log(p) if p > 0 else MIN_LOGPROB
    return {"token": shown_piece(piece), "logprob": logprob, "bytes": list(piece)}
