"""The text of each slot for a synthetic clip: the training targets of the soft tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from reellama.models.projector.slots import (
    _OBJECT_WIDTHS,
    CAMERA_SLOT,
    MAX_OBJECTS,
    NAME_SLOT,
    SLOT_WIDTHS,
    slot_spans,
)
from reellama.models.synthetic.assets.picture_pool import UNNAMED
from reellama.models.synthetic.camera import HANDHELD
from reellama.models.synthetic.motions import CHANGES_PLACES, SequentialMotion
from reellama.models.synthetic.questions import NUMBER_WORDS, description_order, is_moving
from reellama.models.synthetic.scene import DIRECTIONS, Actor, Drawable, Pose, Scene
from reellama.models.synthetic.synthetic_clip import SyntheticClip

PHOTOGRAPH_NAME = "photograph"  # in the name slot of any photograph
SLOW_SHARE = 0.3  # an actor that moves less than this share of the picture is slow


def slot_texts(clip: SyntheticClip) -> list[str]:
    """The text of each slot, in the order of `SLOT_WIDTHS`; "" where the clip has no such fact."""
    scene = clip.scene
    shots = [scene, *([scene.second_shot] if scene.second_shot else [])]
    things = [thing for shot in shots for thing in _described_objects(shot)]
    if clip.is_photograph:
        texts = ["", "", _camera_text(scene), PHOTOGRAPH_NAME, "", ""]
    else:
        moving = sum(is_moving(actor) for actor in scene.actors)
        texts = [NUMBER_WORDS[len(scene.actors)], NUMBER_WORDS[moving], _camera_text(scene)]
        for thing in things[:MAX_OBJECTS]:
            time = 1.0 if thing.motion == CHANGES_PLACES else 0.0
            place = "" if scene.camera else _position_text(thing.pose(time))
            texts += [thing.picture.kind, _motion_text(thing), place]
    texts += [""] * (len(SLOT_WIDTHS) - 1 - len(texts))
    first = things[0] if things else None
    return [*texts, first.second.motion if isinstance(first, SequentialMotion) else ""]


def logit_biases(name: float, camera: float) -> Iterator[tuple[int, str, float]]:
    """Logit biases towards vague answers, as tuples (soft token, word, logits).

    name: bias of "something" and "photograph" in the name slots. camera: bias of a camera that
    "moves about".
    """
    starts = [start for start, _ in slot_spans()]
    yield starts[NAME_SLOT], PHOTOGRAPH_NAME, name
    for thing in range(MAX_OBJECTS):
        yield starts[NAME_SLOT + len(_OBJECT_WIDTHS) * thing], UNNAMED, name
    for number, word in enumerate(HANDHELD.split()[2:]):
        yield starts[CAMERA_SLOT] + number, word, camera


def _described_objects(shot: Scene) -> list[Drawable]:
    """The objects of a shot in the order of its description; of copies only the first one."""
    ordered = description_order(shot.actors)
    kinds = Counter(actor.picture.kind for actor in ordered)
    return ordered[:1] if len(kinds) == 1 else ordered


def _motion_text(actor: Drawable) -> str:
    if isinstance(actor, SequentialMotion):
        return actor.first.motion
    if actor.motion == CHANGES_PLACES:
        return f"{_position_text(actor.pose(0.0))} ends {_position_text(actor.pose(1.0))}"
    slow = isinstance(actor, Actor) and actor.motion in DIRECTIONS and actor.amount < SLOW_SHARE
    return f"{actor.motion} slowly" if slow else actor.motion


def _position_text(pose: Pose) -> str:
    """One of the nine places "top left", "top", ..., "middle"."""
    row = ("top", "", "bottom")[_third(pose.y)]
    column = ("left", "", "right")[_third(pose.x)]
    return f"{row} {column}".strip() or "middle"


def _third(share: float) -> int:
    return min(2, max(0, int(share * 3)))


def _camera_text(scene: Scene) -> str:
    if scene.second_shot:
        return "cut"
    return scene.camera.move.removeprefix("the camera ") if scene.camera else "stays still"
