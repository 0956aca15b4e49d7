"""How likely tokens were, as OpenAI's and Ollama's clients read it."""

from __future__ import annotations

import math
from typing import Any

from reellama.pipeline.llm.token_scorer import Token

# Stands for a probability of 0, whose logarithm JSON cannot hold; nothing that a float32 softmax
# gives is less likely.
MIN_LOGPROB = -9999.0


def token_logprobs(token: Token, n_top: int | None) -> dict[str, Any]:
    """A token with its log probability and those of the `n_top` likeliest; None: without a list."""
    own = _logprob(token.piece, token.p)
    if n_top is None:
        return own
    likeliest = zip(token.alternative_pieces, token.alternatives, strict=True)
    return {**own, "top_logprobs": [_logprob(piece, p) for piece, (_, p) in likeliest][:n_top]}


def shown_piece(piece: bytes) -> str:
    r"""A token's bytes as text; those of a part of a character as OpenAI writes them.

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
