"""The scenario of a camera that pans or zooms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from reellama.models.synthetic.assets.picture_pool import PicturePool
from reellama.models.synthetic.camera import CAMERA_MOVES, Camera
from reellama.models.synthetic.layout import add_beside, empty_scene, photograph_scene
from reellama.models.synthetic.questions import (
    choice_question,
    description_order,
    guess_text,
    indefinite_name,
    naming_questions,
    pick_wording,
    random_classes,
)
from reellama.models.synthetic.scene import Actor
from reellama.models.synthetic.scene_captions import as_sentence
from reellama.models.synthetic.synthetic_clip import ClipQuestion, SyntheticClip


def camera(rng: np.random.Generator, pool: PicturePool) -> SyntheticClip:
    """The camera pans or zooms over objects that stand still, or over a photograph."""
    scene = empty_scene(rng, pool)
    move = str(rng.choice(CAMERA_MOVES)) if rng.random() < 0.85 else "the camera stays still"
    alone = bool(pool.photos) and rng.random() < 0.45
    actors: list[Actor] = []
    if alone:
        scene = photograph_scene(rng, pool, scene)
        actors = [actor for actor in scene.actors if isinstance(actor, Actor)]
    else:
        for picture in pool.pick(rng, int(rng.integers(1, 4))):
            actors = add_beside(
                rng, actors, picture, rng.uniform(0.2, 0.32), scene.size, "stays still"
            )
    question = pick_wording(
        rng, "What does the camera do?", "How does the camera move?", "Does the camera move?"
    )
    moves = [*CAMERA_MOVES, "the camera stays still"]
    questions = [choice_question(rng, "camera", question, move, moves, as_sentence(move))]
    classes: tuple[int, ...] = ()
    if alone:
        # The LLM learns to repeat the names in the prompt. Random ones, in place of those that the
        # classifier reports, suffice for that.
        classes = random_classes(rng)
        caption = f"A photograph, {guess_text(classes)}. {as_sentence(move)}"
        naming = pick_wording(rng, "What is in the video?", "What can be seen?", "What is it?")
        questions.append(ClipQuestion("", naming, "", (), as_sentence(guess_text(classes))))
    else:
        questions += naming_questions(rng, pool, [a.picture for a in actors])
        things = " and ".join(indefinite_name(a.picture) for a in description_order(actors))
        verb = "stays" if len(actors) == 1 else "stay"
        caption = f"{as_sentence(f'{things} {verb} still')} {as_sentence(move)}"
    scene = replace(scene, actors=tuple(actors), camera=Camera.random(rng, move))
    return SyntheticClip("camera", scene, caption, tuple(questions), classes, alone)
