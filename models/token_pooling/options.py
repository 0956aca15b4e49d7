"""What a person may choose about a video's tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

# Cells of the KV cache that a video gets when nobody says.
DEFAULT_TOKENS = 256
# The poolings by name, and what takes frames in full where they fit and else the best of these.
PoolingMethod = Literal[
    "full",
    "subsample",
    "mean_over_time",
    "adaptive_mean",
    "slow_fast",
    "merge_similar",
    "prune_common",
]
POOLING_METHODS: tuple[PoolingMethod, ...] = get_args(PoolingMethod)
AUTO = "auto"


@dataclass(frozen=True)
class PoolingOptions:
    """How many tokens a video gets, and how those of a vision model are pooled.

    tokens: cells of the KV cache that a video may take, with what stands around its tokens; None:
    as many as the bundle's default.
    method: one of POOLING_METHODS, or "auto".
    """

    tokens: int | None = None
    method: str = AUTO


DEFAULT_POOLING = PoolingOptions()
