"""What a person may choose about a video's tokens."""

from __future__ import annotations

from dataclasses import dataclass

# Cells of the KV cache that a video gets when nobody says.
DEFAULT_TOKENS = 256


@dataclass(frozen=True)
class PoolingOptions:
    """How many tokens a video gets, and how those of a vision model are pooled.

    tokens: cells of the KV cache that a video may take, with what stands around its tokens; None:
    as many as the bundle's default.
    method: a name of `reellama.models.token_pooling.pool.POOLINGS`, or "auto".
    """

    tokens: int | None = None
    method: str = "auto"


DEFAULT_POOLING = PoolingOptions()
