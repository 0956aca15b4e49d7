"""Slots: spans of soft tokens, each of which holds one fact about the video.

In a caption, the position of a word depends on the tokens before it. In slots, the name of the
second object always begins at the same soft token, so every soft token answers one question about
the video. That is learned much faster, and the LLM learns to read it.
"""

from __future__ import annotations

MAX_OBJECTS = 4  # objects with slots of their own
# Soft tokens of each slot: the number of objects, the number that move, the camera; then name,
# motion and place of each object; then the second motion of the first object. The place is that at
# the start, or at the end for objects that change places, as questions ask for it.
_SCENE_WIDTHS = (1, 1, 3)
_OBJECT_WIDTHS = (5, 5, 2)
_THEN_WIDTH = 4
SLOT_WIDTHS = (*_SCENE_WIDTHS, *_OBJECT_WIDTHS * MAX_OBJECTS, _THEN_WIDTH)
N_SLOT_TOKENS = sum(SLOT_WIDTHS)  # 57
N_COUNT_TOKENS = sum(_SCENE_WIDTHS[:2])  # the first soft tokens: the two counts
CAMERA_SLOT = 2
# Slots of the first object.
NAME_SLOT, MOTION_SLOT, THEN_SLOT = (
    len(_SCENE_WIDTHS),
    len(_SCENE_WIDTHS) + 1,
    len(SLOT_WIDTHS) - 1,
)
# Those of all objects.
NAME_SLOTS = range(NAME_SLOT, NAME_SLOT + MAX_OBJECTS * len(_OBJECT_WIDTHS), len(_OBJECT_WIDTHS))


def slot_spans() -> list[tuple[int, int]]:
    """The first soft token of each slot, and the one after its last."""
    ends = [sum(SLOT_WIDTHS[: number + 1]) for number in range(len(SLOT_WIDTHS))]
    return [(end - width, end) for end, width in zip(ends, SLOT_WIDTHS, strict=True)]


def slot_names() -> list[str]:
    """A label for each slot, for people."""
    things = [
        f"thing {number}: {what}"
        for number in range(1, MAX_OBJECTS + 1)
        for what in ("name", "motion", "place")
    ]
    return ["how many things", "how many move", "camera", *things, "thing 1: and then"]
