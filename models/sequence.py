"""Stories of one thing whose moments have an order, one motion and then another, or have none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from models.paths import Doing, Jumbled, Route
from models.pictures import Picture
from models.scene import BACKWARDS, MOTIONS, Moving
from models.telling import (
    ACTIONS,
    WAYS,
    Cast,
    Story,
    a_thing,
    ask,
    empty_scene,
    naming,
    say,
    sentence,
    the_thing,
)


def order(rng: np.random.Generator, cast: Cast) -> Story:
    """One thing does one thing and then another."""
    scene = empty_scene(rng, cast)
    (picture,) = cast.pick(rng)
    doing = Doing.random(rng, picture, float(rng.uniform(0.22, 0.36)), scene.size)
    before, after = doing.first.motion, doing.second.motion
    first, last = _first_or_last(rng, picture)
    choices = _in_any_order(rng, doing)
    asked = [
        ask(rng, "action order", first, f"it {before}", choices, f"First it {before}."),
        ask(rng, "action order", last, f"it {after}", choices, f"Then it {after}."),
        *naming(rng, cast, [picture]),
    ]
    told = sentence(f"{a_thing(picture)} {before}, then it {after}")
    return Story("order", replace(scene, actors=(doing,)), told, tuple(asked))


def about(rng: np.random.Generator, cast: Cast) -> Story:
    """One thing moves about, in no one direction and no order."""
    scene = empty_scene(rng, cast)
    (picture,) = cast.pick(rng)
    route: Moving
    if rng.random() < 0.5:
        route = Route.about(rng, picture, float(rng.uniform(0.22, 0.4)))
    else:
        route = Jumbled.random(rng, picture, float(rng.uniform(0.22, 0.36)), scene.size)
    name, does = the_thing(picture), f"It {route.motion}."
    which = say(rng, f"Which way does {name} move?", f"In which direction does {name} go?")
    what = say(rng, f"What does {name} do?", f"What is {name} doing?")
    # Who must choose a direction or an order where there is none is to prefer none.
    asked = [
        ask(rng, "", which, str(rng.choice(WAYS)), WAYS, does),
        ask(rng, "action", what, "moves", ACTIONS, does),
        *naming(rng, cast, [picture]),
    ]
    if isinstance(route, Jumbled):
        question = say(rng, *_first_or_last(rng, picture))
        choices = _in_any_order(rng, route.doing)
        asked.append(ask(rng, "", question, str(rng.choice(choices)), choices, does))
    told = sentence(f"{a_thing(picture)} {route.motion}")
    return Story("about", replace(scene, actors=(route,)), told, tuple(asked))


def _first_or_last(rng: np.random.Generator, picture: Picture) -> tuple[str, str]:
    """Questions for the first and the second of two motions."""
    name = the_thing(picture)
    first = say(rng, f"What does {name} do first?", "What happens first?")
    last = say(rng, f"What does {name} do last?", "What happens last?", "What happens then?")
    return first, last


def _in_any_order(rng: np.random.Generator, doing: Doing) -> list[str]:
    """Both motions, and two that the same moments would show in another order, if there are such.

    What grows looks like what shrinks then, and what moves left like what moves right.
    """
    both = [doing.first.motion, doing.second.motion]
    backwards = [BACKWARDS[motion] for motion in both if motion in BACKWARDS]
    others = [*backwards, *(str(motion) for motion in rng.permutation(MOTIONS))]
    motions = [*both, *(motion for motion in dict.fromkeys(others) if motion not in both)]
    return [f"it {motion}" for motion in motions[:4]]
