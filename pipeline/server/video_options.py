"""What a request may say about its videos, the same in both protocols."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.token_pooling.options import DEFAULT_POOLING, PoolingOptions
from reellama.pipeline.video.read_options import VideoReadOptions

# Names in a request, and of which kind each is: those of `VideoReadOptions` and `PoolingOptions`.
VIDEO_OPTIONS: Mapping[str, type] = {
    "frames": int,
    "fps": float,
    "start": float,
    "end": float,
    "tokens": int,
    "pooling": str,
}
# Most frames that a request may ask for: they are in memory at once.
MAX_FRAMES = 256


@dataclass(frozen=True)
class VideoOptions:
    """Which frames of a request's videos are taken, and how their tokens are pooled."""

    reading: VideoReadOptions = VideoReadOptions()
    pooling: PoolingOptions = DEFAULT_POOLING


DEFAULT_VIDEO_OPTIONS = VideoOptions()


def video_options(given: Mapping[str, Any]) -> VideoOptions:
    """The options in a request, each under its name; what is missing or None has its default.

    Raises ReellamaError for a value of another kind or out of range.
    """
    named = {
        name: _checked(name, given[name], kind)
        for name, kind in VIDEO_OPTIONS.items()
        if given.get(name) is not None
    }
    pooling = PoolingOptions(
        named.pop("tokens", None), named.pop("pooling", DEFAULT_POOLING.method)
    )
    reading = VideoReadOptions(**named)
    if reading.n_frames > MAX_FRAMES:
        raise ReellamaError(f"{reading.n_frames} frames: at most {MAX_FRAMES} are taken")
    return VideoOptions(reading, pooling)


def _checked(name: str, value: Any, kind: type) -> Any:
    takes = {int: int, float: int | float, str: str}[kind]
    if isinstance(value, bool) or not isinstance(value, takes):
        called = {int: "a whole number", float: "a number", str: "text"}[kind]
        raise ReellamaError(f'option "{name}" must be {called}')
    return kind(value)
