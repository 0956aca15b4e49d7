"""The video options of requests, the same in all protocols."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.token_pooling.options import DEFAULT_POOLING, PoolingOptions
from reellama.pipeline.option_fields import as_float
from reellama.pipeline.video.read_options import VideoReadOptions
from reellama.pipeline.video.timestamps import parse_time

# Name of each option in a request -> kind of its value. The names are those of `VideoReadOptions`,
# `PoolingOptions` and the command line.
VIDEO_OPTIONS: Mapping[str, str] = {
    "frames": "a whole number",
    "sampling": "text",
    "fps": "a number",
    "start": "a time: seconds, 1:30 or 1:02:03.5",
    "end": "a time: seconds, 1:30 or 1:02:03.5",
    "subtitles": "text",
    "tokens": "a whole number",
    "pooling": "text",
}
# Most frames that a request may ask for: they are in memory at once.
MAX_FRAMES = 256


@dataclass(frozen=True)
class VideoOptions:
    """Which frames of videos are read, and how their tokens are pooled."""

    read_options: VideoReadOptions = VideoReadOptions()
    pooling: PoolingOptions = DEFAULT_POOLING


DEFAULT_VIDEO_OPTIONS = VideoOptions()


def video_options(
    given: Mapping[str, Any], default: VideoOptions = DEFAULT_VIDEO_OPTIONS
) -> VideoOptions:
    """The options of a request or of one video, by name; `default` for missing ones and None.

    `sampling` and `fps` belong together: either of them overrides both of the default.
    Raises ReellamaError for a value of another kind or out of range.
    """
    named = _validated(given)
    if _SAMPLING_FIELDS & named.keys():
        named = {name: getattr(VideoReadOptions, name) for name in _SAMPLING_FIELDS} | named
    pooled = {field: named.pop(name) for name, field in _POOLING.items() if name in named}
    pooling = replace(default.pooling, **pooled)
    read_options = replace(default.read_options, **named)
    if read_options.n_frames > MAX_FRAMES:
        raise ReellamaError(f"{read_options.n_frames} frames: at most {MAX_FRAMES} are taken")
    return VideoOptions(read_options, pooling)


def checked_video_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a request by name, validated before the server's defaults are known.

    Raises ReellamaError for a value of another kind or out of range.
    """
    video_options(given)
    return _validated(given)


def _validated(given: Mapping[str, Any]) -> dict[str, Any]:
    """The given options without None, each of the right kind."""
    return {
        name: _checked(name, given[name]) for name in VIDEO_OPTIONS if given.get(name) is not None
    }


_SAMPLING_FIELDS = frozenset({"sampling", "fps"})
# Option of a request -> field of `PoolingOptions`.
_POOLING = {"tokens": "tokens", "pooling": "method"}


def _checked(name: str, value: Any) -> Any:
    kind = VIDEO_OPTIONS[name]
    if kind == "text" and isinstance(value, str):
        return value
    if kind == "a whole number" and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind not in ("text", "a whole number"):
        if isinstance(value, int | float) and not isinstance(value, bool):
            return as_float(value)
        if kind != "a number" and isinstance(value, str):
            with suppress(ValueError):
                return parse_time(value)
    raise ReellamaError(f'option "{name}" must be {kind}')
