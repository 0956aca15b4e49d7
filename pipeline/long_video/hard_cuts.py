"""Hard cuts of a video of any length: all frames of a short one, parts of a long one.

Decoding every frame of hours would take many times longer than looking at keyframes. So of a long
video the parts between two sampled frames are decoded, and of these the parts first whose frames
differ most in colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from reellama.pipeline.long_video.cut_detection import REACH_SECONDS, CutFinder
from reellama.pipeline.progress_callbacks import Progress
from reellama.pipeline.video.source import FrameSource
from reellama.pipeline.video.video_file import VideoFile

# Seconds of a video that are decoded in full at most: all of a shorter one.
DECODED_SECONDS = 600.0
# A film of fewer frames a second has no neighbours to compare: sampled frames tell as much.
MIN_RATE = 4.0

Span = tuple[float, float]  # seconds


@dataclass(frozen=True, eq=False)
class HardCuts:
    """times: seconds, float64 [c], ascending; strengths: their log odds, float64 [c];
    spans: start and end of what was decoded, float64 [m, 2]."""

    times: np.ndarray = field(default_factory=lambda: np.zeros(0))
    strengths: np.ndarray = field(default_factory=lambda: np.zeros(0))
    spans: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))

    def covers(self, start: float, end: float) -> bool:
        """Whether all frames from `start` to `end` were looked at."""
        return bool(np.any((self.spans[:, 0] <= start) & (self.spans[:, 1] >= end)))


def find_hard_cuts(
    source: FrameSource, times: np.ndarray, colours: np.ndarray, progress: Progress
) -> HardCuts:
    """The cuts between frames of a video whose frames at `times` [n] have the `colours` [n, d].

    progress: seconds decoded, of how many.
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
    """What to decode, in order and without overlap."""
    if duration <= DECODED_SECONDS or len(times) < 2:
        return [(0.0, min(duration, DECODED_SECONDS))]
    change = np.abs(np.diff(colours, axis=0)).mean(axis=1)
    left, chosen = DECODED_SECONDS, []
    for i in np.argsort(-change, kind="stable"):
        left -= times[i + 1] - times[i]
        if left < 0:
            break
        chosen.append((float(times[i]), float(times[i + 1])))
    return _joined(sorted(chosen))


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Spans that touch become one."""
    joined: list[Span] = []
    for start, end in spans:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined
