"""The scenario of a camera that pans or zooms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from models.synthetic.assets.picture_pool import Cast
from models.synthetic.camera import CAMERA_MOVES, Camera
from models.synthetic.layout import beside, empty_scene, photograph
from models.synthetic.questions import (
    a_thing,
    any_classes,
    ask,
    in_order,
    naming,
    perhaps,
    say,
    sentence,
)
from models.synthetic.scene import (
    Actor,
)
from models.synthetic.synthetic_clip import Question, Story


def camera(rng: np.random.Generator, cast: Cast) -> Story:
    """The camera pans or zooms over things that stand still, or over a photograph alone."""
    scene = empty_scene(rng, cast)
    move = str(rng.choice(CAMERA_MOVES)) if rng.random() < 0.85 else "the camera stays still"
    alone = bool(cast.photos) and rng.random() < 0.45
    actors: list[Actor] = []
    if alone:
        scene = photograph(rng, cast, scene)
        actors = [actor for actor in scene.actors if isinstance(actor, Actor)]
    else:
        for picture in cast.pick(rng, int(rng.integers(1, 4))):
            actors = beside(rng, actors, picture, rng.uniform(0.2, 0.32), scene.size, "stays still")
    question = say(
        rng, "What does the camera do?", "How does the camera move?", "Does the camera move?"
    )
    others = [*CAMERA_MOVES, "the camera stays still"]
    asked = [ask(rng, "camera", question, move, others, sentence(move))]
    seen: tuple[int, ...] = ()
    if alone:
        # The classifier's names stand in the prompt: any will do to learn to repeat them.
        seen = any_classes(rng)
        told = f"A photograph, {perhaps(seen)}. {sentence(move)}"
        what = say(rng, "What is in the video?", "What can be seen?", "What is it?")
        asked.append(Question("", what, "", (), sentence(perhaps(seen))))
    else:
        asked += naming(rng, cast, [a.picture for a in actors])
        things = " and ".join(a_thing(a.picture) for a in in_order(actors))
        verb = "stays" if len(actors) == 1 else "stay"
        told = f"{sentence(f'{things} {verb} still')} {sentence(move)}"
    scene = replace(scene, actors=tuple(actors), camera=Camera.of(rng, move))
    return Story("camera", scene, told, tuple(asked), seen, alone)
