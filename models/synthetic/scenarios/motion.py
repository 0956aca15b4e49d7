"""Scenarios of what things do: one or several that move, stand, race or change places."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from models.synthetic.assets.picture_pool import Cast
from models.synthetic.assets.pictures import Picture
from models.synthetic.camera import CAMERA_MOVES
from models.synthetic.layout import beside, empty_scene
from models.synthetic.motions import Route
from models.synthetic.questions import (
    ACTIONS,
    a_thing,
    ask,
    in_order,
    naming,
    say,
    sentence,
    the_thing,
    ways,
)
from models.synthetic.scene import (
    DIRECTIONS,
    MIN_TURN_VISIBILITY,
    Actor,
    random_actor,
    random_motion,
)
from models.synthetic.synthetic_clip import Question, Story

PLACES = (
    "at the top left",
    "at the top right",
    "at the bottom left",
    "at the bottom right",
    "in the middle",
)
ROW = ("on the left", "in the middle", "on the right")


def _action(motion: str) -> str:
    return "moves" if motion in DIRECTIONS else motion


def _doing(rng: np.random.Generator, actor: Actor) -> list[Question]:
    """Questions about one actor's motion."""
    name, motion = the_thing(actor.picture), actor.motion
    asked = []
    if motion in DIRECTIONS:
        question = say(rng, f"Which way does {name} move?", f"In which direction does {name} go?")
        way = motion.removeprefix("moves ")
        choices = ways(rng, way)
        asked.append(ask(rng, "moving direction", question, way, choices, f"It {motion}."))
    question = say(
        rng, f"What does {name} do?", f"What happens to {name}?", f"What is {name} doing?"
    )
    asked.append(ask(rng, "action", question, _action(motion), ACTIONS, f"It {motion}."))
    return asked


def _travels(rng: np.random.Generator, picture: Picture) -> str:
    """A motion that anyone would call one."""
    motion = str(rng.choice([*DIRECTIONS, "spins", "bounces", "shakes"]))
    turns = picture.turn_visibility >= MIN_TURN_VISIBILITY
    return motion if turns or motion != "spins" else "bounces"


def one(rng: np.random.Generator, cast: Cast) -> Story:
    """One thing does one thing."""
    scene = empty_scene(rng, cast)
    (picture,) = cast.pick(rng)
    motion = random_motion(rng, picture)
    actor = random_actor(rng, picture, rng.uniform(0.22, 0.5), scene.size, motion)
    asked = [*_doing(rng, actor), *naming(rng, cast, [picture])]
    question = "Does the camera move?"
    still = "the camera stays still"
    asked.append(ask(rng, "", question, still, [*CAMERA_MOVES], sentence(still)))
    told = sentence(f"{a_thing(picture)} {actor.motion}")
    return Story("one", replace(scene, actors=(actor,)), told, tuple(asked))


def place(rng: np.random.Generator, cast: Cast) -> Story:
    """One thing stands at a place."""
    scene = empty_scene(rng, cast)
    (picture,) = cast.pick(rng)
    where = int(rng.integers(5))
    x, y = ((0.24, 0.24), (0.76, 0.24), (0.24, 0.76), (0.76, 0.76), (0.5, 0.5))[where]
    x, y = x + rng.uniform(-0.06, 0.06), y + rng.uniform(-0.06, 0.06)
    actor = Actor(picture, "stays still", float(x), float(y), float(rng.uniform(0.22, 0.36)))
    question = say(
        rng, f"Where is {the_thing(picture)}?", f"Where in the picture is {the_thing(picture)}?"
    )
    worded = f"It is {PLACES[where]}."
    asked = [ask(rng, "position", question, PLACES[where], PLACES, worded)]
    asked += [*naming(rng, cast, [picture]), *_doing(rng, actor)]
    told = f"{sentence(f'{a_thing(picture)} stays still')[:-1]} {PLACES[where]}."
    return Story("place", replace(scene, actors=(actor,)), told, tuple(asked))


def two(rng: np.random.Generator, cast: Cast) -> Story:
    """Two different things, each doing something, the main one larger."""
    scene = empty_scene(rng, cast)
    first, second = cast.pick(rng, 2)
    side = rng.uniform(0.33, 0.5)
    main = random_actor(rng, first, side, scene.size, random_motion(rng, first))
    actors = beside(rng, [main], second, main.size * rng.uniform(0.5, 0.7), scene.size)
    asked = [q for actor in actors for q in _doing(rng, actor)]
    asked += naming(rng, cast, [a.picture for a in actors])
    told = sentence(" and ".join(f"{a_thing(a.picture)} {a.motion}" for a in in_order(actors)))
    return Story("two", replace(scene, actors=tuple(actors)), told, tuple(asked))


def mover(rng: np.random.Generator, cast: Cast) -> Story:
    """Several different things, of which one moves."""
    scene = empty_scene(rng, cast)
    pictures = cast.pick(rng, int(rng.integers(2, 5)))
    motion = _travels(rng, pictures[0])
    side = float(rng.uniform(0.22, 0.3))
    actors = [random_actor(rng, pictures[0], side, scene.size, motion)]
    for picture in pictures[1:]:
        actors = beside(rng, actors, picture, side, scene.size, "stays still")
    names = [the_thing(a.picture) for a in actors]
    which = say(rng, "Which one moves?", "Which of them moves?", "Which object is moving?")
    others = names[1:] or [f"the {rng.choice(list(cast.names))}"]
    asked = [ask(rng, "which moves", which, names[0], others, sentence(f"{names[0]} {motion}"))]
    asked += [*_doing(rng, actors[0]), *naming(rng, cast, [a.picture for a in actors])]
    told = sentence(f"{a_thing(actors[0].picture)} {motion}")
    if len(actors) > 1:
        rest = " and ".join(a_thing(a.picture) for a in in_order(actors[1:]))
        told += " " + sentence(f"{rest} {'stay' if len(actors) > 2 else 'stays'} still")
    return Story("mover", replace(scene, actors=tuple(actors)), told, tuple(asked))


def race(rng: np.random.Generator, cast: Cast) -> Story:
    """Two different things move at different speeds."""
    scene = empty_scene(rng, cast)
    pictures = cast.pick(rng, 2)
    right = bool(rng.random() < 0.5)
    way = "moves right" if right else "moves left"
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
        actors.append(Actor(picture, way, x, float(y), side, amount=amount))
    names = [the_thing(p) for p in pictures]
    quick = bool(rng.random() < 0.6)
    question = (
        say(rng, "Which one is faster?", "Which one moves faster?")
        if quick
        else "Which one is slower?"
    )
    answer = names[0] if quick else names[1]
    worded = sentence(f"{answer} is {'faster' if quick else 'slower'}")
    other = names[1] if quick else names[0]
    asked = [ask(rng, "speed", question, answer, [other], worded)]
    asked += [q for actor in actors for q in _doing(rng, actor)][:2]
    asked += naming(rng, cast, pictures)
    told = sentence(f"{a_thing(pictures[0])} {way} fast and {a_thing(pictures[1])} {way} slowly")
    return Story("race", replace(scene, actors=tuple(actors)), told, tuple(asked))


def shuffle(rng: np.random.Generator, cast: Cast) -> Story:
    """Three different things stand in a row and change places."""
    scene = empty_scene(rng, cast)
    pictures = cast.pick(rng, 3)
    side = float(rng.uniform(0.24, 0.3))
    places, routes = Route.swaps(rng, pictures, side, int(rng.integers(1, 3)))
    pick = int(rng.integers(3))
    name = the_thing(pictures[pick])
    end, start = ROW[places[pick]], ROW[pick]
    asked = [
        ask(rng, "object shuffle", f"Where is {name} at the end?", end, ROW, f"It is {end}."),
        ask(rng, "", f"Where is {name} at the beginning?", start, ROW, f"It is {start}."),
        *naming(rng, cast, pictures),
    ]
    order = sorted(range(3), key=lambda number: places[number])
    listed = ", ".join(a_thing(pictures[number]) for number in order)
    told = sentence(f"things change places; at the end, from left to right: {listed}")
    return Story("shuffle", replace(scene, actors=tuple(routes)), told, tuple(asked))
