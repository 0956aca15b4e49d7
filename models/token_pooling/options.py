"""What a person may choose about a video's tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from reellama.gguf_tools.errors import ReellamaError

# Cells of the KV cache that a video gets when nobody says.
DEFAULT_TOKENS = 256
# Share of a context that videos may take; the rest is for questions and answers.
VIDEOS_SHARE = 3 / 4
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
    method: one of POOLING_METHODS, or "auto". Raises ReellamaError for another.
    """

    tokens: int | None = None
    method: str = AUTO

    def __post_init__(self) -> None:
        if self.method not in (AUTO, *POOLING_METHODS):
            known = ", ".join((AUTO, *POOLING_METHODS))
            raise ReellamaError(f"no pooling named {self.method!r}; choose one of {known}")
        if self.tokens is not None and self.tokens < 1:
            raise ReellamaError(f"{self.tokens} tokens hold no video: allow more")


DEFAULT_POOLING = PoolingOptions()
