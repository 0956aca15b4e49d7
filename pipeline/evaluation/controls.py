"""Controls: the same questions with something taken away that a task should need."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
OTHER = "another clip"  # the question, asked of a video that it is not about
FOOTAGE_CONTROLS = (WITHHELD, OTHER)  # of real footage, which often is one frame
_NAMES = {
    WITHHELD: "without the video",
    SHUFFLED: "with frames in shuffled order",
    SINGLE: "with a single frame",
}
SEED = 0  # of the orders that shuffled frames come in

# The tasks that a control must hurt, besides taking the video away. MVBench's names stand beside
# our own.
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

SIGNIFICANCE = 0.05  # a fall that chance brings less often than this is one


def task_needs(control: str, task: str) -> bool:
    """Whether a task needs what a control takes away."""
    return control == WITHHELD or task.lower().replace("_", " ") in TASKS_NEEDING[control]


def soft_tokens_by_control(
    bundle: VideoBundle,
    clip: Clip,
    controls: Sequence[str],
    pooling: PoolingOptions = DEFAULT_POOLING,
) -> dict[str, Prompt | None]:
    """A video in a prompt as it is (under "") and in each control; None is no video.

    The frames go through the tower once.
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
    """An order of n frames, neither the true one nor its reverse, always the same for a name.

    Another one for each video: a single order might keep a part of what happens in all of them.
    """
    rng = np.random.default_rng([SEED, crc32(name.encode())])
    order = rng.permutation(n)
    while n > 2 and (np.all(np.diff(order) > 0) or np.all(np.diff(order) < 0)):
        order = rng.permutation(n)
    return order


def is_significantly_lower(right: Sequence[bool], controlled: Sequence[bool]) -> bool:
    """Whether fewer of the same questions are right in a control (sign test, one-sided)."""
    lost = sum(a and not b for a, b in zip(right, controlled, strict=True))
    won = sum(b and not a for a, b in zip(right, controlled, strict=True))
    n = lost + won
    return bool(n) and sum(comb(n, k) for k in range(lost, n + 1)) / 2**n < SIGNIFICANCE


def control_warning(task: str, right: Sequence[bool], by_control: dict[str, Sequence[bool]]) -> str:
    """What to say about a task whose score does not fall where it should; "" if it does."""
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
