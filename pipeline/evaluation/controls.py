"""Controls: the same questions, but without something that a task should need."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from math import comb
from zlib import crc32

import numpy as np

from reellama.gguf_tools.text.prompt_parts import Prompt
from reellama.models.encoded_frames import encoded_frames
from reellama.models.open_bundle import VideoBundle
from reellama.models.token_pooling.options import DEFAULT_POOLING, PoolingOptions
from reellama.pipeline.video.clip import Clip

WITHHELD, SHUFFLED, SINGLE = "no video", "shuffled", "one frame"
CONTROLS = (WITHHELD, SHUFFLED, SINGLE)
OTHER = "another clip"  # the question is asked about another video
FOOTAGE_CONTROLS = (WITHHELD, OTHER)  # of real footage, which is often a single picture
_NAMES = {
    WITHHELD: "without the video",
    SHUFFLED: "with frames in shuffled order",
    SINGLE: "with a single frame",
}
SEED = 0  # of the orders of shuffled frames

# The tasks whose accuracy the other controls must lower, by our names and by MVBench's.
_ORDER = {
    "action",
    "action antonym",
    "action order",
    "action sequence",
    "camera",
    "character order",
    "egocentric navigation",
    "moving count",
    "moving direction",
    "object shuffle",
    "scene transition",
    "speed",
}
_TIME = _ORDER | {
    "action count",
    "action localization",
    "action prediction",
    "fine grained action",
    "moving attribute",
    "state change",
    "unexpected action",
    "which moves",
}
TASKS_NEEDING = {SHUFFLED: _ORDER, SINGLE: _TIME}

SIGNIFICANCE = 0.05  # p-value below which a lower accuracy is significant


def task_needs(control: str, task: str) -> bool:
    """Whether a task needs what a control removes."""
    return control == WITHHELD or task.lower().replace("_", " ") in TASKS_NEEDING[control]


def soft_tokens_by_control(
    bundle: VideoBundle,
    clip: Clip,
    controls: Sequence[str],
    pooling: PoolingOptions = DEFAULT_POOLING,
) -> dict[str, Prompt | None]:
    """The prompt parts of a video, unchanged (under "") and by control; None means no video.

    The frames are encoded by the tower once.
    """
    chosen = bundle.choose_frames(clip.frames, clip.times, pooling)
    features = bundle.chosen_features(chosen)  # [T, cells, channels]
    n = len(features)
    whole = encoded_frames(features, chosen, clip.frames, clip.times)
    times = whole.times[:: math.ceil(len(whole.times) / n)]  # a vision model may merge two frames

    def parts(features: np.ndarray, times: np.ndarray) -> Prompt:
        n_read = whole.n_read if len(times) > 1 else np.array(len(times))
        video = whole._replace(array=bundle.project(features, times), times=times, n_read=n_read)
        return bundle.prompt_parts(video, pooling)

    prompts: dict[str, Prompt | None] = {"": parts(features, times)}
    for control in controls:
        if control == WITHHELD:
            prompts[control] = None
        elif control == SHUFFLED:
            order = _shuffled(n, clip.path.name)
            prompts[control] = parts(features[order], times)
        else:
            middle = slice(n // 2, n // 2 + 1)
            prompts[control] = parts(features[middle], times[middle])
    return prompts


def _shuffled(n: int, name: str) -> np.ndarray:
    """A random order of n frames, neither the true one nor its reverse, seeded by a video's name.

    A single order for all videos might preserve some of the motion in all of them.
    """
    rng = np.random.default_rng([SEED, crc32(name.encode())])
    order = rng.permutation(n)
    while n > 2 and (np.all(np.diff(order) > 0) or np.all(np.diff(order) < 0)):
        order = rng.permutation(n)
    return order


def is_significantly_lower(right: Sequence[bool], controlled: Sequence[bool]) -> bool:
    """Whether significantly fewer of the same questions are right in a control.

    This is the one-sided sign test at the level SIGNIFICANCE.
    """
    lost = sum(a and not b for a, b in zip(right, controlled, strict=True))
    won = sum(b and not a for a, b in zip(right, controlled, strict=True))
    n = lost + won
    return bool(n) and sum(comb(n, k) for k in range(lost, n + 1)) / 2**n < SIGNIFICANCE


def control_warning(
    task: str, right: Sequence[bool], by_control: Mapping[str, Sequence[bool]]
) -> str:
    """The warning about a task whose accuracy does not fall in the controls; "" if it does.

    right, by_control: whether each question is answered correctly, unchanged and by control.
    """
    not_lower = {
        control: controlled
        for control, controlled in by_control.items()
        if task_needs(control, task) and not is_significantly_lower(right, controlled)
    }
    if not not_lower:
        return ""
    shares = (
        f"{_percent(controlled)} {_NAMES[control]}" for control, controlled in not_lower.items()
    )
    fell = all(sum(controlled) < sum(right) for controlled in not_lower.values())
    few = f"; {len(right)} questions are too few to tell" if fell else ""
    return f"proves nothing: {_percent(right)} are right, and {', '.join(shares)}{few}"


def _percent(right: Sequence[bool]) -> str:
    return f"{sum(right) / len(right):.0%}"
