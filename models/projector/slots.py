"""What the soft tokens of a story are taught to say: a form, in which every fact has its place.

In a caption, where a word stands depends on how many tokens the words before it have. In the form
the second thing's name always begins at the same soft token, so each of them has one question to
answer about the video, which is learned much sooner. The LLM learns to read the form.
"""

from __future__ import annotations

MAX_OBJECTS = 4  # things that are listed at most
# Soft tokens of each field: how many things, how many of them move, the camera; then each thing's
# name, motion and place; then what the first thing does afterwards. The place is that of the
# beginning, or of the end for who changes places, since that is what one is asked for.
_SCENE_WIDTHS = (1, 1, 3)
_OBJECT_WIDTHS = (5, 5, 2)
_THEN_WIDTH = 4
SLOT_WIDTHS = (*_SCENE_WIDTHS, *_OBJECT_WIDTHS * MAX_OBJECTS, _THEN_WIDTH)
N_SLOT_TOKENS = sum(SLOT_WIDTHS)  # 57
N_COUNT_TOKENS = sum(
    _SCENE_WIDTHS[:2]
)  # first soft tokens: how many things, and how many of them move
CAMERA_SLOT = 2  # its field
NAME_SLOT, MOTION_SLOT, THEN_SLOT = (
    len(_SCENE_WIDTHS),
    len(_SCENE_WIDTHS) + 1,
    len(SLOT_WIDTHS) - 1,
)  # fields of the first thing


def slot_spans() -> list[tuple[int, int]]:
    """First soft token of each field, and the one after its last."""
    ends = [sum(SLOT_WIDTHS[: number + 1]) for number in range(len(SLOT_WIDTHS))]
    return [(end - width, end) for end, width in zip(ends, SLOT_WIDTHS, strict=True)]


def slot_names() -> list[str]:
    """What each field is there to say, in a few words."""
    things = [
        f"thing {number}: {what}"
        for number in range(1, MAX_OBJECTS + 1)
        for what in ("name", "motion", "place")
    ]
    return ["how many things", "how many move", "camera", *things, "thing 1: and then"]
