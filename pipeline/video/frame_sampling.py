"""The four sampling modes, which choose frames of any `FrameSource`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise

import numpy as np

from reellama.pipeline.progress_callbacks import Progress
from reellama.pipeline.video.read_options import VideoReadOptions
from reellama.pipeline.video.scene_detection import choose_frames, color_quantiles, spread_evenly
from reellama.pipeline.video.source import Frame, FrameSource, VideoError

# The coarse pass of "scenes" samples this many frames for each requested one, within two bounds.
_SAMPLES_PER_FRAME, _MIN_SAMPLES, _MAX_SAMPLES = 8, 64, 512
# Longest side in pixels of a frame in the coarse pass.
_SAMPLE_SIDE = 64


def select_frames(
    source: FrameSource, options: VideoReadOptions, progress: Progress | None = None
) -> Iterator[tuple[float, np.ndarray]]:
    """Yield the frames that `options` asks for: seconds, and uint8 RGB `[height, width, 3]`.

    Adds notes to `source.notes` if the frames differ from the request. Raises VideoError if no
    frame can be read.
    """
    report = progress or (lambda done, total: None)
    start, end = _span(source, options)
    present = _count(source.frame_times(start, end), options.n_frames + 1)
    if present <= options.n_frames and options.mode in ("uniform", "scenes"):
        times, n_samples = None, 0
        if options.frames is not None and present < options.frames and source.duration:
            whole = "the folder has" if source.path.is_dir() else "the file has"
            where = "this part has" if options.start or options.end else whole
            source.notes.append(f"asked for {options.frames} frames, {where} {present}")
    else:
        times, n_samples = _sample_times(source, options, start, end, report)
    wanted = present if times is None else len(times)
    max_side = options.max_side if wanted > 1 else options.still_side or options.max_side
    taken, last, error = 0, -math.inf, None
    for frames in _attempts(source, times, start, end, options.n_frames):
        for frame in frames:
            time = max(frame.time, start)
            if time <= last:
                continue  # a damaged file leads to the same frame twice, or back in time
            try:
                rgb = frame.rgb(max_side)
            except VideoError as damage:
                error = damage
                continue
            taken, last = taken + 1, time
            report(n_samples + taken, n_samples + wanted)
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
        # Only a fixed rate may ask for the same frame twice.
        why = "others would be the same" if options.mode == "fps" else "others cannot be decoded"
        source.notes.append(f"asked for {wanted} frames, took {taken}: {why}")


def _attempts(
    source: FrameSource, times: Sequence[float] | None, start: float, end: float, limit: int
) -> Iterator[Iterator[Frame]]:
    """The frames at `times`; then, for a file damaged at these times, any frames of the span."""
    if times is not None:
        yield source.frames_at(times)
    yield islice(source.frames_between(start, end), limit)


def _span(source: FrameSource, options: VideoReadOptions) -> tuple[float, float]:
    """Start and end of the part to read, in seconds: start < end."""
    start, duration = options.start or 0.0, source.duration
    if start > 0 and start >= duration:
        raise VideoError(
            f"{source.path}: start ({start:g} s) is past the end of the video ({duration:.1f} s)"
        )
    if options.end is not None and options.end > duration > 0:
        source.notes.append(f"the video ends at {duration:.1f} s")
    end = duration if options.end is None else min(options.end, duration)
    return start, max(end, math.nextafter(start, math.inf))  # a still picture has no duration


def _sample_times(
    source: FrameSource, options: VideoReadOptions, start: float, end: float, report: Progress
) -> tuple[list[float], int]:
    """Times of the frames to read, and the steps of progress that it took to find them."""
    if options.mode == "fps" and options.fps is not None:
        n = math.ceil((end - start) * options.fps)
        if n <= options.n_frames:
            return [start + i / options.fps for i in range(max(1, n))], 0
        source.notes.append(
            f"{options.fps:g} frames a second would be {n}: took {options.n_frames}, evenly spread"
        )
    if options.mode == "keyframes":
        times = thin_evenly(source.keyframe_times(start, end), options.n_frames)
        if options.frames is not None and len(times) < options.frames and source.duration:
            source.notes.append(
                f"asked for {options.frames} frames, there are {len(times)} keyframes"
            )
        if times:
            return times, 0
    if options.mode == "scenes":
        return _scene_times(source, options.n_frames, start, end, report)
    return _uniform_times(source, options.n_frames, start, end), 0


def _uniform_times(source: FrameSource, n: int, start: float, end: float) -> list[float]:
    """Times of `n` different frames, evenly spread: the centres of `n` equal intervals.

    A frame that is shown for longer than an interval counts as one interval. Otherwise most centres
    would fall on the same frame in a recording that stands still for ten minutes.
    """
    centers = interval_centers(start, end, n)
    if all(_count(source.frame_times(a, b), 2) == 2 for a, b in pairwise(centers)):
        return centers
    appear = np.maximum(np.fromiter(source.frame_times(start, end), dtype=np.float64), start)
    if len(appear) <= n:
        return [float(time) for time in appear]
    stays = np.diff(appear, append=end)  # seconds on screen, [frames]
    # If the k longest-shown frames count as one interval each, the others share what is left.
    longest = np.cumsum([0.0, *np.sort(stays)[::-1][: n - 1]])
    interval = ((stays.sum() - longest) / np.arange(n, 0, -1)).min()
    ends = np.cumsum(np.minimum(stays, interval)) / interval
    # Rounded, so that a centre that falls between two frames always means the second.
    indices = np.searchsorted(ends.round(6), np.arange(n) + 0.5, side="right")
    return [float(time) for time in appear[indices]]


def _count(items: Iterable[object], limit: int) -> int:
    """The number of items, counted up to `limit`."""
    return sum(1 for _ in islice(items, limit))


def _scene_times(
    source: FrameSource, n: int, start: float, end: float, report: Progress
) -> tuple[list[float], int]:
    """Times of frames in different scenes, found in small frames from all over the video."""
    n_samples = max(2 * n, min(_MAX_SAMPLES, max(_MIN_SAMPLES, _SAMPLES_PER_FRAME * n)))
    times: list[float] = []
    descriptors: list[np.ndarray] = []
    for frame in source.frames_at(_uniform_times(source, n_samples, start, end), coarse=True):
        try:
            descriptors.append(color_quantiles(frame.rgb(_SAMPLE_SIDE)))
        except VideoError:
            continue  # select_frames reports damage
        times.append(max(frame.time, start))
        report(len(times), n_samples + n)
    if not times:
        return interval_centers(start, end, n), n_samples
    return choose_frames(np.array(times), np.stack(descriptors), n), n_samples


def interval_centers(start: float, end: float, n: int) -> list[float]:
    """The centres of `n` equal intervals between `start` and `end` (seconds)."""
    step = (end - start) / n
    return [min(start + (i + 0.5) * step, end) for i in range(n)]


def thin_evenly(times: Iterable[float], n: int) -> list[float]:
    """At most `n` of `times`, evenly spread over them; holds at most 4 n of them at once."""
    thinned: list[float] = []
    stride = 1
    for i, time in enumerate(times):
        if i % stride == 0:
            thinned.append(time)
        if len(thinned) > 4 * n:
            thinned, stride = thinned[::2], stride * 2
    return [thinned[i] for i in spread_evenly(len(thinned), n)]
