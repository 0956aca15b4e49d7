"""What a person may choose about a video's tokens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PoolingOptions:
    """How many tokens a video gets, and how those of a vision model are pooled.

    tokens: cells of the KV cache that the video may take, timestamps included; None: the default.
    method: a name of `reellama.models.token_pooling.pooling.POOLINGS`, or "auto".
    """

    tokens: int | None = None
    method: str = "auto"


DEFAULT_POOLING = PoolingOptions()
