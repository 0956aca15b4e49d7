"""The text of each slot for a synthetic clip: what the soft tokens are trained to say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from models.projector.slots import _THING, CAMERA, NAME, THINGS, WIDTHS, spans
from models.synthetic.assets.picture_pool import UNKNOWN
from models.synthetic.camera import WANDERS
from models.synthetic.motions import CHANGES_PLACES, Doing
from models.synthetic.questions import NUMBERS, in_order, moves
from models.synthetic.scene import DIRECTIONS, Actor, Moving, Pose, Scene
from models.synthetic.synthetic_clip import Story

PHOTOGRAPH = "photograph"  # the name of whatever is one
SLOW = 0.3  # who goes less than this share of the picture in a clip is slow


def fill(story: Story) -> list[str]:
    """The story's form: a text for each of `WIDTHS`, empty where there is nothing to say."""
    scene = story.scene
    shots = [scene, *([scene.later] if scene.later else [])]
    things = [thing for shot in shots for thing in _listed(shot)]
    if story.photograph:
        fields = ["", "", _camera(scene), PHOTOGRAPH, "", ""]
    else:
        moving = sum(moves(actor) for actor in scene.actors)
        fields = [NUMBERS[len(scene.actors)], NUMBERS[moving], _camera(scene)]
        for thing in things[:THINGS]:
            when = 1.0 if thing.motion == CHANGES_PLACES else 0.0
            place = "" if scene.camera else _place(thing.pose(when))
            fields += [thing.picture.kind, _does(thing), place]
    fields += [""] * (len(WIDTHS) - 1 - len(fields))
    then = things[0] if things else None
    return [*fields, then.second.motion if isinstance(then, Doing) else ""]


def hedges(name: float, camera: float) -> Iterator[tuple[int, str, float]]:
    """What is to be said where nothing else is much likelier: a soft token, a word, and by how many
    logits. Of names that is "something" or "photograph", of the camera that it moves about.
    """
    starts = [start for start, _ in spans()]
    yield starts[NAME], PHOTOGRAPH, name
    for thing in range(THINGS):
        yield starts[NAME + len(_THING) * thing], UNKNOWN, name
    for number, word in enumerate(WANDERS.split()[2:]):
        yield starts[CAMERA] + number, word, camera


def _listed(shot: Scene) -> list[Moving]:
    """The things that a shot's description names, in its order; of copies only the first one."""
    ordered = in_order(shot.actors)
    kinds = Counter(actor.picture.kind for actor in ordered)
    return ordered[:1] if len(kinds) == 1 else ordered


def _does(actor: Moving) -> str:
    if isinstance(actor, Doing):
        return actor.first.motion
    if actor.motion == CHANGES_PLACES:
        return f"{_place(actor.pose(0.0))} ends {_place(actor.pose(1.0))}"
    slow = isinstance(actor, Actor) and actor.motion in DIRECTIONS and actor.amount < SLOW
    return f"{actor.motion} slowly" if slow else actor.motion


def _place(pose: Pose) -> str:
    """One of nine: "top left", "top", ..., "middle"."""
    row = ("top", "", "bottom")[_third(pose.y)]
    column = ("left", "", "right")[_third(pose.x)]
    return f"{row} {column}".strip() or "middle"


def _third(share: float) -> int:
    return min(2, max(0, int(share * 3)))


def _camera(scene: Scene) -> str:
    if scene.later:
        return "cut"
    return scene.camera.move.removeprefix("the camera ") if scene.camera else "stays still"
