"""The texts that each slot may hold: all those that `slot_targets` fills it with."""

from __future__ import annotations

from functools import cache

from reellama.models.projector.slots import MAX_OBJECTS
from reellama.models.synthetic.assets.picture_pool import UNNAMED
from reellama.models.synthetic.assets.pictures import load_kinds, shape_kinds
from reellama.models.synthetic.camera import CAMERA_MOVES, HANDHELD
from reellama.models.synthetic.motions import MOVES_ABOUT
from reellama.models.synthetic.questions import NUMBER_WORDS
from reellama.models.synthetic.scene import DIRECTIONS, MOTIONS
from reellama.models.synthetic.slot_targets import PHOTOGRAPH_NAME

PLACES = (
    *("top left", "top", "top right"),
    *("left", "middle", "right"),
    *("bottom left", "bottom", "bottom right"),
)


@cache
def slot_choices() -> tuple[tuple[str, ...], ...]:
    """The possible texts of each slot, in the order of `SLOT_WIDTHS`; "" is one of them."""
    kinds = [kind.name for data in ("kinds", "flags") for kind in load_kinds(data)]
    names = ("", UNNAMED, PHOTOGRAPH_NAME, *dict.fromkeys([*shape_kinds(), *kinds]))
    slowly = (f"{motion} slowly" for motion in DIRECTIONS)
    changes = (f"{a} ends {b}" for a in PLACES for b in PLACES)
    motions = ("", *MOTIONS, MOVES_ABOUT, *slowly, *changes)
    moves = (move.removeprefix("the camera ") for move in (*CAMERA_MOVES, HANDHELD))
    camera = ("", "stays still", "cut", *moves)
    numbers = ("", *NUMBER_WORDS)
    things = (names, motions, ("", *PLACES)) * MAX_OBJECTS
    return numbers, numbers, camera, *things, ("", *MOTIONS)
