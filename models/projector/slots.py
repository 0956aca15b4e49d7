"""Slots: spans of soft tokens, each of which holds one fact about the video.

In a caption, the position of a word depends on the words before it. With slots, the name of the
second object, say, always begins at the same soft token, so that every soft token answers one
question about the video. A projector learns that much faster.
"""

from __future__ import annotations

MAX_OBJECTS = 4  # objects with slots of their own
_SCENE_WIDTHS = (1, 1, 3)  # soft tokens of: number of objects, number that move, camera
# Soft tokens of: name, motion, place. The place is that at the start, or at the end for objects
# that change places, because questions ask for it.
_OBJECT_WIDTHS = (5, 5, 2)
_THEN_WIDTH = 4  # soft tokens of the second motion of the first object
SLOT_WIDTHS = (*_SCENE_WIDTHS, *_OBJECT_WIDTHS * MAX_OBJECTS, _THEN_WIDTH)
N_SLOT_TOKENS = sum(SLOT_WIDTHS)  # 57
N_COUNT_TOKENS = sum(_SCENE_WIDTHS[:2])  # the two numbers, which are the first soft tokens
CAMERA_SLOT = 2
# Slots of the first object.
NAME_SLOT, MOTION_SLOT = len(_SCENE_WIDTHS), len(_SCENE_WIDTHS) + 1
THEN_SLOT = len(SLOT_WIDTHS) - 1
# Name slots of all objects.
NAME_SLOTS = range(NAME_SLOT, NAME_SLOT + MAX_OBJECTS * len(_OBJECT_WIDTHS), len(_OBJECT_WIDTHS))


def slot_spans() -> list[tuple[int, int]]:
    """The range of soft tokens of each slot: first, and last plus one."""
    ends = [sum(SLOT_WIDTHS[: number + 1]) for number in range(len(SLOT_WIDTHS))]
    return [(end - width, end) for end, width in zip(ends, SLOT_WIDTHS, strict=True)]


def slot_names() -> list[str]:
    """A label for each slot, for people."""
    things = [
        f"thing {number}: {fact}"
        for number in range(1, MAX_OBJECTS + 1)
        for fact in ("name", "motion", "place")
    ]
    return ["how many things", "how many move", "camera", *things, "thing 1: and then"]
