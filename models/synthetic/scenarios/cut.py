"""The scenario of two scenes with a hard cut between them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from reellama.models.synthetic.assets.picture_pool import PicturePool
from reellama.models.synthetic.questions import choice_question, indefinite_name, pick_wording
from reellama.models.synthetic.scenarios.motion import one
from reellama.models.synthetic.synthetic_clip import SyntheticClip


def cut(rng: np.random.Generator, pool: PicturePool) -> SyntheticClip:
    """Two scenes with a hard cut between them."""
    before, after = one(rng, pool), one(rng, pool)
    duration = float(rng.uniform(3.0, 10.0))
    cut_time = float(rng.uniform(0.38, 0.62))
    size = before.scene.size
    later = replace(after.scene, size=size)
    scene = replace(before.scene, duration=duration, cut_time=cut_time, second_shot=later)
    names = [indefinite_name(s.scene.actors[0].picture) for s in (before, after)]
    extra = next(name for p in pool.pick(rng, 3) if (name := indefinite_name(p)) not in names)
    # One of the two names is in every choice, so that the choices alone do not give the answer
    # away.
    common = names[int(rng.integers(2))]
    pairs = [tuple(names), tuple(names[::-1]), (common, extra), (extra, common)]
    choices = [f"from {a} to {b}" for a, b in pairs]
    question = pick_wording(
        rng, "How does the scene change?", "What does the scene change from and to?"
    )
    sentence = f"The scene changes {choices[0]}."
    questions = [
        choice_question(rng, "scene transition", question, choices[0], choices[1:], sentence)
    ]
    many = pick_wording(rng, "How many scenes are there?", "How many shots does the video have?")
    questions.append(choice_question(rng, "", many, "two", ("one", "two", "three"), "Two."))
    caption = f"{before.caption} Then {after.caption[0].lower()}{after.caption[1:]}"
    return SyntheticClip("cut", scene, caption, tuple(questions))
