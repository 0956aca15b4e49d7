"""Scenarios of temporal order: one motion and then another, and motions without an order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from reellama.models.synthetic.assets.picture_pool import PicturePool
from reellama.models.synthetic.assets.pictures import Picture
from reellama.models.synthetic.layout import empty_scene
from reellama.models.synthetic.motions import (
    ORDERABLE_MOTIONS,
    SequentialMotion,
    ShuffledMotion,
    WaypointMotion,
)
from reellama.models.synthetic.questions import (
    DIRECTION_WORDS,
    choice_question,
    definite_name,
    direction_choices,
    indefinite_name,
    naming_questions,
    pick_wording,
    unanswerable_questions,
)
from reellama.models.synthetic.scene import Drawable, reversed_motion
from reellama.models.synthetic.scene_captions import as_sentence
from reellama.models.synthetic.scene_generation import random_actor
from reellama.models.synthetic.synthetic_clip import SyntheticClip

SIDES = (0.25, 0.42)  # range of the largest size in two motions, in shares of the short side


def order(rng: np.random.Generator, pool: PicturePool) -> SyntheticClip:
    """One object with two motions, one after the other."""
    scene = empty_scene(rng, pool)
    (picture,) = pool.pick(rng)
    doing = SequentialMotion.random(rng, picture, float(rng.uniform(*SIDES)), scene.size)
    before, after = doing.first.motion, doing.second.motion
    first, last = _first_or_last(rng, picture)
    choices = _in_any_order(rng, doing)
    questions = [
        choice_question(rng, "action order", first, f"it {before}", choices, f"First it {before}."),
        choice_question(rng, "action order", last, f"it {after}", choices, f"Then it {after}."),
        *naming_questions(rng, pool, [picture]),
    ]
    caption = as_sentence(f"{indefinite_name(picture)} {before}, then it {after}")
    return SyntheticClip("order", replace(scene, actors=(doing,)), caption, tuple(questions))


def aimless_motion(rng: np.random.Generator, pool: PicturePool) -> SyntheticClip:
    """One object moves about, without a direction or an order.

    From questions for a direction or an order, the model learns to give all choices the same
    probability.
    """
    scene = empty_scene(rng, pool)
    (picture,) = pool.pick(rng)
    motion, question, choices = _aimless(rng, picture, scene.size)
    moves_about = f"it {motion.motion}"
    questions = [
        *unanswerable_questions(rng, question, choices, as_sentence(moves_about)),
        *naming_questions(rng, pool, [picture]),
    ]
    caption = as_sentence(f"{indefinite_name(picture)} {motion.motion}")
    return SyntheticClip("about", replace(scene, actors=(motion,)), caption, tuple(questions))


def _aimless(
    rng: np.random.Generator, picture: Picture, size: tuple[int, int]
) -> tuple[Drawable, str, list[str]]:
    """A motion without direction or order, a question that it does not answer, and its choices."""
    name, chance = definite_name(picture), rng.random()
    if chance < 0.4:
        doing = SequentialMotion.random(rng, picture, float(rng.uniform(*SIDES)), size)
        first_or_last = pick_wording(rng, *_first_or_last(rng, picture))
        return ShuffledMotion.random(rng, doing), first_or_last, _in_any_order(rng, doing)
    direction = str(rng.choice(DIRECTION_WORDS))
    side = float(rng.uniform(0.22, 0.5))
    which = pick_wording(rng, f"Which way does {name} move?", f"In which direction does {name} go?")
    motion: Drawable
    if chance < 0.8:
        straight = random_actor(rng, picture, side, size, f"moves {direction}")
        motion = ShuffledMotion.random(rng, straight)
    else:
        motion = WaypointMotion.aimless(rng, picture, min(side, 0.4))
    return motion, which, direction_choices(rng, direction)


def _first_or_last(rng: np.random.Generator, picture: Picture) -> tuple[str, str]:
    """Wordings of the questions for the first and for the second of two motions."""
    name = definite_name(picture)
    first = pick_wording(rng, f"What does {name} do first?", "What happens first?")
    last = pick_wording(
        rng, f"What does {name} do last?", "What happens last?", "What happens then?"
    )
    return first, last


def _in_any_order(rng: np.random.Generator, doing: SequentialMotion) -> list[str]:
    """Choices for an order: both motions and two others, each together with its reverse.

    With shuffled frames growing looks like shrinking, and moving left like moving right. So neither
    unordered frames nor the choices alone tell which motion came first.
    """
    both = (doing.first.motion, doing.second.motion)
    motions = list(dict.fromkeys(m for motion in both for m in (motion, reversed_motion(motion))))
    if len(motions) == 2 and reversed_motion(both[0]) == both[1]:
        other = str(
            rng.choice([m for m in ORDERABLE_MOTIONS if reversed_motion(m) not in (m, *motions)])
        )
        motions += [other, reversed_motion(other)]
    else:
        alike = [m for m in ORDERABLE_MOTIONS if reversed_motion(m) == m and m not in motions]
        motions += [str(motion) for motion in rng.permutation(alike)[: 4 - len(motions)]]
    return [f"it {motion}" for motion in motions]
