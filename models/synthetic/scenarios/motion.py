"""Scenarios of motions and places: one or several objects that move, stand, race or swap places."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from reellama.models.synthetic.assets.picture_pool import PicturePool
from reellama.models.synthetic.assets.pictures import Picture
from reellama.models.synthetic.camera import CAMERA_MOVES
from reellama.models.synthetic.layout import add_beside, empty_scene
from reellama.models.synthetic.motions import WaypointMotion
from reellama.models.synthetic.questions import (
    ACTION_WORDS,
    choice_question,
    definite_name,
    description_order,
    direction_choices,
    indefinite_name,
    naming_questions,
    pick_wording,
)
from reellama.models.synthetic.scene import DIRECTIONS, Actor
from reellama.models.synthetic.scene_captions import as_sentence
from reellama.models.synthetic.scene_generation import (
    MIN_TURN_VISIBILITY,
    random_actor,
    random_motion,
)
from reellama.models.synthetic.synthetic_clip import ClipQuestion, SyntheticClip

PLACES = (
    "at the top left",
    "at the top right",
    "at the bottom left",
    "at the bottom right",
    "in the middle",
)
ROW = ("on the left", "in the middle", "on the right")


def _action_word(motion: str) -> str:
    return "moves" if motion in DIRECTIONS else motion


def _motion_questions(rng: np.random.Generator, actor: Actor) -> list[ClipQuestion]:
    """Questions about the motion of one actor."""
    name, motion = definite_name(actor.picture), actor.motion
    questions = []
    if motion in DIRECTIONS:
        question = pick_wording(
            rng, f"Which way does {name} move?", f"In which direction does {name} go?"
        )
        direction = motion.removeprefix("moves ")
        choices = direction_choices(rng, direction)
        questions.append(
            choice_question(rng, "moving direction", question, direction, choices, f"It {motion}.")
        )
    question = pick_wording(
        rng, f"What does {name} do?", f"What happens to {name}?", f"What is {name} doing?"
    )
    questions.append(
        choice_question(
            rng, "action", question, _action_word(motion), ACTION_WORDS, f"It {motion}."
        )
    )
    return questions


def _travel_motion(rng: np.random.Generator, picture: Picture) -> str:
    """A motion that is easy to see: a direction, or spinning, bouncing or shaking."""
    motion = str(rng.choice([*DIRECTIONS, "spins", "bounces", "shakes"]))
    turns = picture.turn_visibility >= MIN_TURN_VISIBILITY
    return motion if turns or motion != "spins" else "bounces"


def one(rng: np.random.Generator, pool: PicturePool) -> SyntheticClip:
    """One object with one motion."""
    scene = empty_scene(rng, pool)
    (picture,) = pool.pick(rng)
    motion = random_motion(rng, picture)
    actor = random_actor(rng, picture, rng.uniform(0.22, 0.5), scene.size, motion)
    questions = [*_motion_questions(rng, actor), *naming_questions(rng, pool, [picture])]
    question = "Does the camera move?"
    still = "the camera stays still"
    questions.append(choice_question(rng, "", question, still, [*CAMERA_MOVES], as_sentence(still)))
    caption = as_sentence(f"{indefinite_name(picture)} {actor.motion}")
    return SyntheticClip("one", replace(scene, actors=(actor,)), caption, tuple(questions))


def place(rng: np.random.Generator, pool: PicturePool) -> SyntheticClip:
    """One object stands still at one of five places."""
    scene = empty_scene(rng, pool)
    (picture,) = pool.pick(rng)
    where = int(rng.integers(5))
    x, y = ((0.24, 0.24), (0.76, 0.24), (0.24, 0.76), (0.76, 0.76), (0.5, 0.5))[where]
    x, y = x + rng.uniform(-0.06, 0.06), y + rng.uniform(-0.06, 0.06)
    actor = Actor(picture, "stays still", float(x), float(y), float(rng.uniform(0.22, 0.36)))
    question = pick_wording(
        rng,
        f"Where is {definite_name(picture)}?",
        f"Where in the picture is {definite_name(picture)}?",
    )
    sentence = f"It is {PLACES[where]}."
    questions = [choice_question(rng, "position", question, PLACES[where], PLACES, sentence)]
    questions += [*naming_questions(rng, pool, [picture]), *_motion_questions(rng, actor)]
    caption = f"{as_sentence(f'{indefinite_name(picture)} stays still')[:-1]} {PLACES[where]}."
    return SyntheticClip("place", replace(scene, actors=(actor,)), caption, tuple(questions))


def two(rng: np.random.Generator, pool: PicturePool) -> SyntheticClip:
    """Two objects of different kinds, each with a motion; the first is larger."""
    scene = empty_scene(rng, pool)
    first, second = pool.pick(rng, 2)
    side = rng.uniform(0.33, 0.5)
    main = random_actor(rng, first, side, scene.size, random_motion(rng, first))
    actors = add_beside(rng, [main], second, main.size * rng.uniform(0.5, 0.7), scene.size)
    questions = [q for actor in actors for q in _motion_questions(rng, actor)]
    questions += naming_questions(rng, pool, [a.picture for a in actors])
    caption = as_sentence(
        " and ".join(f"{indefinite_name(a.picture)} {a.motion}" for a in description_order(actors))
    )
    return SyntheticClip("two", replace(scene, actors=tuple(actors)), caption, tuple(questions))


def mover(rng: np.random.Generator, pool: PicturePool) -> SyntheticClip:
    """Two to four objects of different kinds, of which one moves."""
    scene = empty_scene(rng, pool)
    pictures = pool.pick(rng, int(rng.integers(2, 5)))
    motion = _travel_motion(rng, pictures[0])
    side = float(rng.uniform(0.22, 0.3))
    actors = [random_actor(rng, pictures[0], side, scene.size, motion)]
    for picture in pictures[1:]:
        actors = add_beside(rng, actors, picture, side, scene.size, "stays still")
    names = [definite_name(a.picture) for a in actors]
    which = pick_wording(rng, "Which one moves?", "Which of them moves?", "Which object is moving?")
    others = names[1:] or [f"the {rng.choice(list(pool.names))}"]
    questions = [
        choice_question(
            rng, "which moves", which, names[0], others, as_sentence(f"{names[0]} {motion}")
        )
    ]
    questions += [
        *_motion_questions(rng, actors[0]),
        *naming_questions(rng, pool, [a.picture for a in actors]),
    ]
    caption = as_sentence(f"{indefinite_name(actors[0].picture)} {motion}")
    if len(actors) > 1:
        still = " and ".join(indefinite_name(a.picture) for a in description_order(actors[1:]))
        caption += " " + as_sentence(f"{still} {'stay' if len(actors) > 2 else 'stays'} still")
    return SyntheticClip("mover", replace(scene, actors=tuple(actors)), caption, tuple(questions))


def race(rng: np.random.Generator, pool: PicturePool) -> SyntheticClip:
    """Two objects of different kinds move in one direction at different speeds."""
    scene = empty_scene(rng, pool)
    pictures = pool.pick(rng, 2)
    right = bool(rng.random() < 0.5)
    motion = "moves right" if right else "moves left"
    side = float(rng.uniform(0.24, 0.34))
    fast, slow = float(rng.uniform(0.55, 0.7)), float(rng.uniform(0.16, 0.27))
    rows = [0.27, 0.73]
    rng.shuffle(rows)
    actors = []
    for picture, amount, y in zip(pictures, (fast, slow), rows, strict=True):
        margin = side / 2 * min(scene.size) / scene.size[0]
        start = (
            float(rng.uniform(margin, 1 - margin - amount)) if amount < 1 - 2 * margin else margin
        )
        x = start if right else 1 - start
        actors.append(Actor(picture, motion, x, float(y), side, amount=amount))
    names = [definite_name(p) for p in pictures]
    quick = bool(rng.random() < 0.6)
    question = (
        pick_wording(rng, "Which one is faster?", "Which one moves faster?")
        if quick
        else "Which one is slower?"
    )
    answer, wrong = names if quick else names[::-1]
    sentence = as_sentence(f"{answer} is {'faster' if quick else 'slower'}")
    questions = [choice_question(rng, "speed", question, answer, [wrong], sentence)]
    questions += [q for actor in actors for q in _motion_questions(rng, actor)][:2]
    questions += naming_questions(rng, pool, pictures)
    first, second = (indefinite_name(picture) for picture in pictures)
    caption = as_sentence(f"{first} {motion} fast and {second} {motion} slowly")
    return SyntheticClip("race", replace(scene, actors=tuple(actors)), caption, tuple(questions))


def shuffle(rng: np.random.Generator, pool: PicturePool) -> SyntheticClip:
    """Three objects of different kinds stand in a row and swap places."""
    scene = empty_scene(rng, pool)
    pictures = pool.pick(rng, 3)
    side = float(rng.uniform(0.24, 0.3))
    places, routes = WaypointMotion.swapping_places(rng, pictures, side, int(rng.integers(1, 3)))
    pick = int(rng.integers(3))
    name = definite_name(pictures[pick])
    end, start = ROW[places[pick]], ROW[pick]
    questions = [
        choice_question(
            rng, "object shuffle", f"Where is {name} at the end?", end, ROW, f"It is {end}."
        ),
        choice_question(
            rng, "", f"Where is {name} at the beginning?", start, ROW, f"It is {start}."
        ),
        *naming_questions(rng, pool, pictures),
    ]
    order = sorted(range(3), key=lambda number: places[number])
    listed = ", ".join(indefinite_name(pictures[number]) for number in order)
    caption = as_sentence(f"things change places; at the end, from left to right: {listed}")
    return SyntheticClip("shuffle", replace(scene, actors=tuple(routes)), caption, tuple(questions))
