"""Detect the hard cuts of a video of any length.

Decoding all frames of hours would take many times longer than sampling keyframes. So of a long
video only some parts between sampled frames are decoded: those whose ends differ most in colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from reellama.pipeline.long_video.cut_detection import REACH_SECONDS, CutFinder
from reellama.pipeline.progress_callbacks import Progress
from reellama.pipeline.video.source import FrameSource
from reellama.pipeline.video.video_file import VideoFile

# The most seconds of a video that are decoded.
DECODED_SECONDS = 600.0
# Below so many frames a second consecutive frames differ too much to compare.
MIN_RATE = 4.0

Span = tuple[float, float]  # seconds


@dataclass(frozen=True, eq=False)
class HardCuts:
    """The hard cuts of a video.

    Attributes:
        times: seconds of the cuts, float64 `[c]`, ascending.
        strengths: log odds of the cuts, float64 `[c]`.
        spans: start and end of the decoded parts in seconds, float64 `[m, 2]`.
    """

    times: np.ndarray = field(default_factory=lambda: np.zeros(0))
    strengths: np.ndarray = field(default_factory=lambda: np.zeros(0))
    spans: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))

    def covers(self, start: float, end: float) -> bool:
        """Whether all frames from `start` to `end` were decoded."""
        return bool(np.any((self.spans[:, 0] <= start) & (self.spans[:, 1] >= end)))


def find_hard_cuts(
    source: FrameSource, times: np.ndarray, colours: np.ndarray, progress: Progress
) -> HardCuts:
    """Find the hard cuts of a video.

    Args:
        times: seconds of sampled frames, `[n]`.
        colours: `color_quantiles` of the sampled frames, `[n, d]`.
        progress: called with the seconds decoded and their total.
    """
    facts = source.facts
    if not isinstance(source, VideoFile) or facts is None or facts.frame_rate < MIN_RATE:
        return HardCuts()
    spans = _spans(source.duration, times, colours)
    total, done = sum(end - start for start, end in spans), 0.0
    cuts = []
    for start, end in spans:
        finder = CutFinder()
        for frame in source.frames_between(start, end + 2 * REACH_SECONDS):
            finder.add(frame)
            progress(done + min(frame.time, end) - start, total)
        cuts += [cut for cut in finder.cuts() if cut.time <= end]
        done += end - start
    return HardCuts(
        np.array([cut.time for cut in cuts]),
        np.array([cut.strength for cut in cuts]),
        np.array(spans).reshape(-1, 2),
    )


def _spans(duration: float, times: np.ndarray, colours: np.ndarray) -> list[Span]:
    """The parts to decode, in order and without overlap."""
    if duration <= DECODED_SECONDS or len(times) < 2:
        return [(0.0, min(duration, DECODED_SECONDS))]
    change = np.abs(np.diff(colours, axis=0)).mean(axis=1)
    remaining, chosen = DECODED_SECONDS, []
    for i in np.argsort(-change, kind="stable"):
        remaining -= times[i + 1] - times[i]
        if remaining < 0:
            break
        chosen.append((float(times[i]), float(times[i + 1])))
    return _joined(sorted(chosen))


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Join spans that touch."""
    joined: list[Span] = []
    for start, end in spans:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined
