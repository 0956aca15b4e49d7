"""Stories after real footage: things without a name over photographs, and a camera in a hand.

What moves is told, and what it is is not: that is how a description hedges.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from models.synthetic.assets.backgrounds import random_background
from models.synthetic.assets.picture_pool import Cast
from models.synthetic.camera import CAMERA_MOVES, WANDERS, Camera
from models.synthetic.layout import beside, empty_scene
from models.synthetic.questions import ask, motion_alone, say, sentence
from models.synthetic.scene import Actor
from models.synthetic.synthetic_clip import Question, Story

STILL = "the camera stays still"


def unknown(rng: np.random.Generator, cast: Cast) -> Story:
    """Up to three things out of photographs, before a camera that stays still or not."""
    scene = empty_scene(rng, cast)
    background = random_background(rng, cast.photos, p_photo=0.9)
    move = STILL if rng.random() < 0.55 else str(rng.choice((WANDERS, WANDERS, *CAMERA_MOVES)))
    scene = replace(scene, background=background, camera=_camera(rng, move))
    actors: list[Actor] = []
    does = "stays still" if rng.random() < 0.3 else None
    for _ in range(int(rng.integers(1, 4))):
        side = float(rng.uniform(0.12, 0.4))
        actors = beside(rng, actors, cast.unnamed(rng), side, scene.size, does)
    moving = [actor for actor in actors if actor.motion != "stays still"]
    told = motion_alone(len(moving))
    if len(actors) == 1 and move == STILL:
        told = f"something {actors[0].motion}"
    scene = replace(scene, actors=tuple(actors))
    asked = _asked(rng, bool(moving), move)
    return Story("unknown", scene, f"{sentence(told)} {sentence(move)}", asked)


def _camera(rng: np.random.Generator, move: str) -> Camera | None:
    return None if move == STILL else Camera.of(rng, move)


def _asked(rng: np.random.Generator, moves: bool, move: str) -> tuple[Question, ...]:
    question = say(rng, "Does anything move?", "Is there motion in the video?")
    answer = "yes" if moves else "no"
    worded = "Yes, something moves." if moves else "No, nothing moves."
    of_camera = say(rng, "Does the camera move?", "What does the camera do?")
    return (
        ask(rng, "", question, answer, ("yes", "no"), worded),
        ask(rng, "", of_camera, move, (*CAMERA_MOVES, STILL), sentence(move)),
        Question("", "What is it?", "", (), "I do not know what it is."),
    )
