"""Controls: what they take away, and when a score must fall."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reellama.models.bundle import Bundle
from reellama.pipeline.evaluation.controls import (
    CONTROLS,
    SHUFFLED,
    SINGLE,
    WITHHELD,
    control_warning,
    is_significantly_lower,
    soft_tokens_by_control,
    task_needs,
)
from reellama.pipeline.video.clip import read_frames

pytestmark = pytest.mark.numeric


def test_what_a_control_takes_away_is_what_some_tasks_need() -> None:
    assert all(task_needs(WITHHELD, task) for task in ("object naming", "speed", "whatever"))
    assert task_needs(SHUFFLED, "action order") and task_needs(SINGLE, "action_order")
    assert not task_needs(SHUFFLED, "object naming") and not task_needs(SINGLE, "count")


def test_controls_are_made_of_the_same_frames(
    square_video: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In bfloat16 a frame alone and the same among others may differ in the third digit.
    monkeypatch.setattr("reellama.models.precision.multiplies_bfloat16", lambda: False)
    bundle = Bundle.load(small_bundle)
    clip = read_frames(square_video, frames=5)
    views = soft_tokens_by_control(bundle, clip, CONTROLS)
    assert views.pop(WITHHELD) is None
    seen = {name: np.asarray(view) for name, view in views.items()}
    assert np.allclose(seen[""], bundle.encode(clip.frames, clip.times).array, atol=1e-4)
    middle = bundle.encode([clip.frames[2]], clip.times[2:3]).array
    assert np.allclose(seen[SINGLE], middle, atol=1e-4)
    assert not np.allclose(seen[SHUFFLED], seen[""], atol=1e-4)
    again = soft_tokens_by_control(bundle, clip, [SHUFFLED])[SHUFFLED]
    assert np.array_equal(seen[SHUFFLED], np.asarray(again))


def test_a_fall_is_one_that_chance_seldom_brings() -> None:
    assert is_significantly_lower([True] * 10, [False] * 10)
    assert not is_significantly_lower([True] * 3, [False] * 3)
    assert not is_significantly_lower([True, False] * 10, [False, True] * 10)
    assert not is_significantly_lower([], [])


def test_a_score_that_does_not_fall_is_said_to_prove_nothing() -> None:
    right = [True] * 18 + [False] * 2
    blind = [False] * 18 + [True] * 2
    assert control_warning("moving direction", right, {WITHHELD: blind, SHUFFLED: right}) == (
        "proves nothing: 90% are right, and 90% with frames in shuffled order"
    )
    assert control_warning("object naming", right, {WITHHELD: blind, SHUFFLED: right}) == ""
    few = control_warning("speed", [True, True], {SHUFFLED: [True, False]})
    assert few.endswith("; 2 questions are too few to tell")
