"""The scenario that imitates real footage: unnamed objects over photographs, a handheld camera.

Its captions describe the motion without naming the objects, so that the model learns to leave out
names that it does not know.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from reellama.models.synthetic.assets.backgrounds import random_background
from reellama.models.synthetic.assets.picture_pool import PicturePool
from reellama.models.synthetic.camera import CAMERA_MOVES, HANDHELD, Camera
from reellama.models.synthetic.layout import add_beside, empty_scene
from reellama.models.synthetic.questions import (
    choice_question,
    motion_caption,
    pick_wording,
)
from reellama.models.synthetic.scene import Actor
from reellama.models.synthetic.scene_captions import as_sentence
from reellama.models.synthetic.synthetic_clip import ClipQuestion, SyntheticClip

CAMERA_STAYS_STILL = "the camera stays still"


def unknown(rng: np.random.Generator, pool: PicturePool) -> SyntheticClip:
    """One to three unnamed objects over a photograph; the camera may move."""
    scene = empty_scene(rng, pool)
    background = random_background(rng, pool.photos, p_photo=0.9)
    move = (
        CAMERA_STAYS_STILL
        if rng.random() < 0.55
        else str(rng.choice((HANDHELD, HANDHELD, *CAMERA_MOVES)))
    )
    scene = replace(scene, background=background, camera=_camera(rng, move))
    actors: list[Actor] = []
    motion = "stays still" if rng.random() < 0.3 else None
    for _ in range(int(rng.integers(1, 4))):
        side = float(rng.uniform(0.12, 0.4))
        actors = add_beside(rng, actors, pool.unnamed_picture(rng), side, scene.size, motion)
    moving = [actor for actor in actors if actor.motion != "stays still"]
    caption = motion_caption(len(moving))
    if len(actors) == 1 and move == CAMERA_STAYS_STILL:
        caption = f"something {actors[0].motion}"
    scene = replace(scene, actors=tuple(actors))
    questions = _questions(rng, bool(moving), move)
    return SyntheticClip("unknown", scene, f"{as_sentence(caption)} {as_sentence(move)}", questions)


def _camera(rng: np.random.Generator, move: str) -> Camera | None:
    return None if move == CAMERA_STAYS_STILL else Camera.random(rng, move)


def _questions(rng: np.random.Generator, moves: bool, move: str) -> tuple[ClipQuestion, ...]:
    question = pick_wording(rng, "Does anything move?", "Is there motion in the video?")
    answer = "yes" if moves else "no"
    sentence = "Yes, something moves." if moves else "No, nothing moves."
    of_camera = pick_wording(rng, "Does the camera move?", "What does the camera do?")
    return (
        choice_question(rng, "", question, answer, ("yes", "no"), sentence),
        choice_question(
            rng, "", of_camera, move, (*CAMERA_MOVES, CAMERA_STAYS_STILL), as_sentence(move)
        ),
        ClipQuestion("", "What is it?", "", (), "I do not know what it is."),
    )
