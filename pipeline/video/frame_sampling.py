"""Which frames to take: the four ways of sampling, over any `FrameSource`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, get_args

import numpy as np

from pipeline.video.scene_detection import choose_frames, color_quantiles, spread_evenly
from pipeline.video.source import Frame, FrameSource, VideoError

SamplingMode = Literal["uniform", "fps", "keyframes", "scenes"]
FrameProgress = Callable[[int, int], None]

# The coarse pass for scenes looks at this many moments for each frame wanted, between two bounds.
_LOOKS_PER_FRAME, _FEWEST_LOOKS, _MOST_LOOKS = 8, 64, 512
# Longest side in pixels of a frame in the coarse pass.
_LOOK_SIDE = 64


@dataclass(frozen=True)
class FrameSelection:
    """What to take from a video; see `read_frames`. Raises VideoError where it makes no sense."""

    frames: int = 8
    sampling: SamplingMode = "uniform"
    fps: float | None = None
    start: float | None = None
    end: float | None = None
    max_side: int | None = None

    def __post_init__(self) -> None:
        if self.fps is not None and self.sampling == "uniform":
            object.__setattr__(self, "sampling", "fps")
        if self.sampling not in get_args(SamplingMode):
            known = ", ".join(get_args(SamplingMode))
            raise VideoError(f"no sampling named {self.sampling!r}; choose one of {known}")
        if self.frames < 1:
            raise VideoError(f"cannot take {self.frames} frames; ask for 1 or more")
        if self.max_side is not None and self.max_side < 1:
            raise VideoError(f"a longest side of {self.max_side} pixels is none; give 1 or more")
        if self.sampling == "fps" and not _positive(self.fps):
            raise VideoError(f"sampling by fps needs frames a second above 0, not {self.fps}")
        if self.sampling != "fps" and self.fps is not None:
            raise VideoError(f"fps means nothing to {self.sampling!r} sampling; leave one out")
        if self.start is not None and not (self.start >= 0 and math.isfinite(self.start)):
            raise VideoError(f"start must be 0 seconds or more, not {self.start}")
        if self.end is not None and not self.end > (self.start or 0.0):
            raise VideoError(f"end ({self.end} s) must come after start ({self.start or 0.0} s)")


def select_frames(
    source: FrameSource, plan: FrameSelection, progress: FrameProgress | None = None
) -> Iterator[tuple[float, np.ndarray]]:
    """(seconds, uint8 RGB [height, width, 3]) of the frames that `plan` asks for, one by one.

    Adds to `source.notes` what came out differently. Raises VideoError where nothing can be taken.
    """
    report = progress or (lambda done, total: None)
    start, end = _span(source, plan)
    present = source.count_frames(start, end, plan.frames + 1)
    if present <= plan.frames and plan.sampling in ("uniform", "scenes"):
        times, looks = None, 0
        if present < plan.frames and source.duration:
            where = "the file has" if not (plan.start or plan.end) else "this part has"
            source.notes.append(f"asked for {plan.frames} frames, {where} {present}")
    else:
        times, looks = _sample_times(source, plan, start, end, report)
    wanted = present if times is None else len(times)
    taken, last, error = 0, -math.inf, None
    for frames in _attempts(source, times, start, end, plan.frames):
        for frame in frames:
            time = max(frame.time, start)
            if time <= last:
                continue  # a damaged file leads to the same frame twice, or back in time
            try:
                rgb = frame.rgb(plan.max_side)
            except VideoError as damage:
                error = damage
                continue
            taken, last = taken + 1, time
            report(looks + taken, looks + wanted)
            yield time, rgb
        if taken:
            break
    if not taken:
        raise error or VideoError(
            f"{source.path}: no frame can be decoded; the file is cut off or damaged"
        )
    if error is not None:
        source.notes.append(f"left out what is damaged: {error}")
    elif times is not None and taken < wanted:
        source.notes.append(f"asked for {wanted} frames, took {taken}: others would be the same")


def _attempts(
    source: FrameSource, times: Sequence[float] | None, start: float, end: float, limit: int
) -> Iterator[Iterator[Frame]]:
    """The frames as planned; then, for a file damaged just there, any that it still has."""
    if times is not None:
        yield source.frames_at(times)
    yield islice(source.frames_between(start, end), limit)


def _span(source: FrameSource, plan: FrameSelection) -> tuple[float, float]:
    """The part to look at, in seconds: start < end."""
    start, duration = plan.start or 0.0, source.duration
    if start > 0 and start >= duration:
        raise VideoError(
            f"{source.path}: start ({start:g} s) is past the end of the video ({duration:.1f} s)"
        )
    if plan.end is not None and plan.end > duration > 0:
        source.notes.append(f"the video ends at {duration:.1f} s")
    end = duration if plan.end is None else min(plan.end, duration)
    return start, max(end, math.nextafter(start, math.inf))  # a still picture has no duration


def _sample_times(
    source: FrameSource, plan: FrameSelection, start: float, end: float, report: FrameProgress
) -> tuple[list[float], int]:
    """Times at which to take frames, and how many steps of progress finding them took."""
    if plan.sampling == "fps" and plan.fps is not None:
        n = math.ceil((end - start) * plan.fps)
        if n <= plan.frames:
            return [start + i / plan.fps for i in range(max(1, n))], 0
        source.notes.append(
            f"{plan.fps:g} frames a second would be {n}: took {plan.frames}, evenly spread"
        )
    if plan.sampling == "keyframes":
        times = thin_evenly(source.keyframe_times(start, end), plan.frames)
        if len(times) < plan.frames and source.duration:
            source.notes.append(f"asked for {plan.frames} frames, there are {len(times)} keyframes")
        if times:
            return times, 0
    if plan.sampling == "scenes":
        return _scene_times(source, plan.frames, start, end, report)
    return interval_centers(start, end, plan.frames), 0


def _scene_times(
    source: FrameSource, n: int, start: float, end: float, report: FrameProgress
) -> tuple[list[float], int]:
    """Look at small frames all over the video, find the cuts, and choose among what was seen."""
    looks = max(2 * n, min(_MOST_LOOKS, max(_FEWEST_LOOKS, _LOOKS_PER_FRAME * n)))
    times: list[float] = []
    descriptors: list[np.ndarray] = []
    for frame in source.frames_at(interval_centers(start, end, looks), coarse=True):
        try:
            descriptors.append(color_quantiles(frame.rgb(_LOOK_SIDE)))
        except VideoError:
            continue  # the pass that takes frames will speak of damage
        times.append(max(frame.time, start))
        report(len(times), looks + n)
    if not times:
        return interval_centers(start, end, n), looks
    return choose_frames(np.array(times), np.stack(descriptors), n), looks


def interval_centers(start: float, end: float, n: int) -> list[float]:
    """The centres of `n` equal intervals between `start` and `end` (seconds)."""
    step = (end - start) / n
    return [min(start + (i + 0.5) * step, end) for i in range(n)]


def thin_evenly(times: Iterable[float], n: int) -> list[float]:
    """At most `n` of `times`, evenly spread over them; holds at most 4 n of them at once."""
    kept: list[float] = []
    stride = 1
    for i, time in enumerate(times):
        if i % stride == 0:
            kept.append(time)
        if len(kept) > 4 * n:
            kept, stride = kept[::2], stride * 2
    return [kept[i] for i in spread_evenly(len(kept), n)]


def _positive(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and value > 0
