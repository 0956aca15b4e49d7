"""Stories: drawn clips with questions of exact ground truth, a story for each thing time can show.

A story is a scene, the sentence that describes it, and its questions by task. The same stories
train a bundle and, with pictures and numbers that training never uses, test it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from models.synthetic.assets.pictures import Picture
from models.synthetic.camera import CAMERA_MOVES, Camera
from models.synthetic.motions import Route
from models.synthetic.questions import (
    ACTIONS,
    NUMBERS,
    UNKNOWN,
    Cast,
    Question,
    Story,
    a_thing,
    any_classes,
    ask,
    beside,
    empty_scene,
    in_order,
    motion_alone,
    moves,
    naming,
    perhaps,
    photograph,
    say,
    sentence,
    the_thing,
    ways,
)
from models.synthetic.scenarios.order import about, order
from models.synthetic.scenarios.unknown import unknown
from models.synthetic.scene import (
    DIRECTIONS,
    MIN_TURN_VISIBILITY,
    MOTIONS,
    Actor,
    random_actor,
    random_motion,
)

PLACES = (
    "at the top left",
    "at the top right",
    "at the bottom left",
    "at the bottom right",
    "in the middle",
)
ROW = ("on the left", "in the middle", "on the right")
NAMELESS = 0.2  # share of the counted things that are cut out of photographs


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


def count(rng: np.random.Generator, cast: Cast) -> Story:
    """One to five of a kind, some of which move; what they are need not be known."""
    scene = empty_scene(rng, cast)
    (picture,) = cast.pick(rng)
    if cast.cut_outs and rng.random() < NAMELESS:
        picture = cast.unnamed(rng)
    wanted, side = int(rng.integers(1, 6)), float(rng.uniform(0.2, 0.28))
    moving = int(rng.integers(0, wanted + 1)) if rng.random() < 0.7 else 0
    motion = str(
        rng.choice([m for m in MOTIONS if m not in ("stays still", "appears", "disappears")])
    )
    if motion == "spins" and picture.turn_visibility < 0.2:
        motion = "bounces"
    actors: list[Actor] = []
    for number in range(wanted):
        does = motion if number < moving else "stays still"
        actors = beside(rng, actors, picture, side, scene.size, does)
    actors = [actors[i] for i in rng.permutation(len(actors))]
    total = len(actors)
    moving = sum(map(moves, actors))
    many = say(rng, "How many objects are there?", "How many things are in the video?")
    asked = [ask(rng, "count", many, NUMBERS[total], NUMBERS[1:], sentence(NUMBERS[total]), 5)]
    move = say(rng, "How many of them move?", "How many objects move?")
    asked.append(
        ask(rng, "moving count", move, NUMBERS[moving], NUMBERS, sentence(NUMBERS[moving]), 6)
    )
    asked += naming(rng, cast, [picture])
    told = sentence(told_copies(actors, motion))
    return Story("count", replace(scene, actors=tuple(actors)), told, tuple(asked))


def told_copies(actors: Sequence[Actor], motion: str) -> str:
    """Copies of one thing, some of which do `motion`."""
    picture, total, moving = actors[0].picture, len(actors), sum(map(moves, actors))
    if picture.kind == UNKNOWN:
        return motion_alone(moving)
    if total == 1:
        return f"{a_thing(picture)} {actors[0].motion}"
    copies = f"{NUMBERS[total]} copies of {a_thing(picture)}"
    if not moving:
        return f"{copies} stay still"
    return f"{copies}; {NUMBERS[moving]} of them {motion if moving == 1 else _plural(motion)}"


def _plural(motion: str) -> str:
    verb, _, rest = motion.partition(" ")
    return f"{verb.removesuffix('s')} {rest}".strip()


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


def cut(rng: np.random.Generator, cast: Cast) -> Story:
    """Two scenes, one after the other."""
    before, after = one(rng, cast), one(rng, cast)
    duration = float(rng.uniform(3.0, 10.0))
    at = float(rng.uniform(0.38, 0.62))
    size = before.scene.size
    later = replace(after.scene, size=size)
    scene = replace(before.scene, duration=duration, cut=at, later=later)
    names = [a_thing(s.scene.actors[0].picture) for s in (before, after)]
    extra = next(name for p in cast.pick(rng, 3) if (name := a_thing(p)) not in names)
    # One of the two is in every choice, so that no choice is likelier for who has not seen.
    known = names[int(rng.integers(2))]
    pairs = [tuple(names), tuple(names[::-1]), (known, extra), (extra, known)]
    choices = [f"from {a} to {b}" for a, b in pairs]
    question = say(rng, "How does the scene change?", "What does the scene change from and to?")
    worded = f"The scene changes {choices[0]}."
    asked = [ask(rng, "scene transition", question, choices[0], choices[1:], worded)]
    many = say(rng, "How many scenes are there?", "How many shots does the video have?")
    asked.append(ask(rng, "", many, "two", ("one", "two", "three"), "Two."))
    told = f"{before.caption} Then {after.caption[0].lower()}{after.caption[1:]}"
    return Story("cut", scene, told, tuple(asked))


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


# Every story, with its share of the training.
STORIES: dict[str, tuple[Callable[[np.random.Generator, Cast], Story], float]] = {
    "one": (one, 0.12),
    "place": (place, 0.04),
    "two": (two, 0.08),
    "order": (order, 0.13),
    "count": (count, 0.12),
    "mover": (mover, 0.06),
    "race": (race, 0.12),
    "shuffle": (shuffle, 0.18),
    "cut": (cut, 0.05),
    "camera": (camera, 0.06),
    "unknown": (unknown, 0.04),
    "about": (about, 0.04),
}


def random_story(
    rng: np.random.Generator,
    cast: Cast,
    name: str | None = None,
    emphasis: Mapping[str, float] = MappingProxyType({}),
) -> Story:
    """A story by name, or any, as often as its share says; `emphasis` multiplies shares."""
    if name is None:
        shares = {n: share * emphasis.get(n, 1.0) for n, (_, share) in STORIES.items()}
        total = sum(shares.values())
        name = str(rng.choice(list(shares), p=[share / total for share in shares.values()]))
    if name == "unknown" and not cast.photos:
        name = "one"
    story = STORIES[name][0](rng, cast)
    # Nothing is to be learned from what the classifier says of a drawing.
    return story if story.seen else replace(story, seen=any_classes(rng))
