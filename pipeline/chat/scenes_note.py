"""The note that a clip has several scenes, as a single description would mix them up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reellama.pipeline.video.scene_detection import changes
from reellama.pipeline.video.timestamps import format_time

MAX_CHANGES = 4  # whose times the note lists


def scenes_note(times: np.ndarray, frames: Sequence[np.ndarray]) -> str:
    """A line for people where frames at `times` seconds show several scenes, or ""."""
    times_of_changes = changes(times, frames)
    if not times_of_changes:
        return ""
    at = ", ".join(format_time(time) for time in times_of_changes[:MAX_CHANGES])
    more = " and later" if len(times_of_changes) > MAX_CHANGES else ""
    return (
        f"its scene changes at about {at}{more}: answers are about all of it together; reellama "
        "timeline describes each scene"
    )
