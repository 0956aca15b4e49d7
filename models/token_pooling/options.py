"""The options that users have for a video's tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from reellama.gguf_tools.errors import ReellamaError

DEFAULT_TOKENS = 256  # cells of the KV cache for a video
# The same for a still, or the only frame of a video. Qwen needs as many to locate things, and
# llama.cpp gives Pixtral and Kimi-VL no more.
STILL_TOKENS = 1024
VIDEOS_SHARE = 3 / 4  # of the context; the rest is for questions and answers
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
AUTO = "auto"  # frames in full if they fit, else the best of the other methods


@dataclass(frozen=True)
class PoolingOptions:
    """How many tokens a video gets, and how the tokens of a vision model are pooled.

    Attributes:
        tokens: cells of the KV cache for a video, with the text and the begin and end tokens around
            its soft tokens; None for the bundle's default.
        method: one of POOLING_METHODS, or "auto".

    Raises:
        ReellamaError: the method is unknown, or `tokens` is less than 1.
    """

    tokens: int | None = None
    method: str = AUTO

    def __post_init__(self) -> None:
        if self.method not in (AUTO, *POOLING_METHODS):
            methods = ", ".join((AUTO, *POOLING_METHODS))
            raise ReellamaError(f"no pooling named {self.method!r}; choose one of {methods}")
        if self.tokens is not None and self.tokens < 1:
            raise ReellamaError(f"{self.tokens} tokens hold no video: allow more")


DEFAULT_POOLING = PoolingOptions()
