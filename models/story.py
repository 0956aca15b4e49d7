"""Stories: drawn clips with questions of exact ground truth, a story for each thing time can show.

A story is a scene, the sentence that describes it, and its questions by task. The same stories
train a bundle and, with pictures and numbers that training never uses, test it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.backgrounds import random_background
from models.camera import CAMERA_MOVES, Camera
from models.captions import with_article
from models.labels import NAMED, class_names
from models.paths import Doing, Route
from models.pictures import Picture
from models.scene import (
    DIRECTIONS,
    MIN_TURN_VISIBILITY,
    MOTIONS,
    Actor,
    Scene,
    overlap,
    random_actor,
    random_motion,
)
from models.shapes import COLOURS
from models.variants import patch, tinted

WAYS = tuple(m.removeprefix("moves ") for m in DIRECTIONS)
PLACES = (
    "at the top left",
    "at the top right",
    "at the bottom left",
    "at the bottom right",
    "in the middle",
)
NUMBERS = ("none", "one", "two", "three", "four", "five")
ROW = ("on the left", "in the middle", "on the right")
UNKNOWN = "something"  # the kind of what has no name
# What an actor is doing, as one word of a choice: directions are one action.
ACTIONS = ("moves", *(m for m in MOTIONS if m not in DIRECTIONS))


@dataclass(frozen=True)
class Question:
    """A question with its choices: `answer` is one of them; `sentence` answers without choices."""

    task: str
    question: str
    answer: str
    choices: tuple[str, ...]
    sentence: str


@dataclass(frozen=True)
class Story:
    """A scene in words: its description, and what can be asked about it."""

    name: str
    scene: Scene
    caption: str
    questions: tuple[Question, ...]
    seen: tuple[int, ...] = ()  # classes of ImageNet that a classifier names here
    looks: str = ""  # the description without them, which is what can be seen in the features


@dataclass(frozen=True)
class Cast:
    """What a story may use: pictures of one style, names that are asked for in vain, photos."""

    pictures: Sequence[Picture]
    names: Sequence[str]
    photos: Sequence[np.ndarray] = ()
    tinted: float = 0.15  # share of the pictures that are drawn in shades of one colour

    def pick(self, rng: np.random.Generator, count: int = 1) -> list[Picture]:
        """Pictures of different kinds."""
        found: list[Picture] = []
        while len(found) < count:
            picture = self.pictures[int(rng.integers(len(self.pictures)))]
            if all(picture.kind != other.kind for other in found):
                found.append(picture)
        return [self._tint(rng, p) if rng.random() < self.tinted else p for p in found]

    def _tint(self, rng: np.random.Generator, picture: Picture) -> Picture:
        if picture.style == "shapes":
            return picture
        return tinted(picture, str(rng.choice(list(COLOURS))))


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _a(picture: Picture) -> str:
    return picture.kind if picture.kind == UNKNOWN else with_article(picture.kind)


def _the(picture: Picture) -> str:
    return "it" if picture.kind == UNKNOWN else f"the {picture.kind}"


def _say(rng: np.random.Generator, *wordings: str) -> str:
    return wordings[int(rng.integers(len(wordings)))]


def _ask(
    rng: np.random.Generator,
    task: str,
    question: str,
    answer: str,
    others: Sequence[str],
    sentence: str,
    most: int = 4,
) -> Question:
    """The answer among up to `most` choices, in random order."""
    wrong = [other for other in dict.fromkeys(others) if other != answer]
    kept = [wrong[i] for i in rng.permutation(len(wrong))[: most - 1]]
    choices = [answer, *kept]
    mixed = tuple(choices[i] for i in rng.permutation(len(choices)))
    return Question(task, question, answer, mixed, sentence)


def naming(rng: np.random.Generator, cast: Cast, pictures: Sequence[Picture]) -> list[Question]:
    """Questions about what is there, whatever happens to it."""
    main = pictures[0]
    if main.kind == UNKNOWN:
        return []
    asked = []
    if len({p.kind for p in pictures}) == 1:
        question = _say(rng, "What is in the video?", "What can be seen?", "What do you see?")
        others = [_a(p) for p in cast.pick(rng, 3)]
        asked.append(_ask(rng, "object naming", question, _a(main), others, _sentence(_a(main))))
    there = bool(rng.random() < 0.5)
    absent = [n for n in rng.choice(list(cast.names), 3) if all(n not in p.kind for p in pictures)]
    if there or absent:
        noun = _a(main) if there else with_article(str(absent[0]))
        question = _say(rng, f"Is there {noun} in the video?", f"Does the video show {noun}?")
        answer = "yes" if there else "no"
        sentence = (
            f"Yes, there is {noun}." if there else f"No, there is no {noun.split(' ', 1)[1]}."
        )
        asked.append(_ask(rng, "object existence", question, answer, ("yes", "no"), sentence))
    colour, _, thing = main.kind.partition(" ")
    if colour in COLOURS and thing and len(pictures) == 1:
        question = _say(rng, "What colour is it?", f"What colour does the {thing} have?")
        asked.append(_ask(rng, "attribute", question, colour, list(COLOURS), f"It is {colour}."))
    return asked


def _action(motion: str) -> str:
    return "moves" if motion in DIRECTIONS else motion


def _doing(rng: np.random.Generator, actor: Actor) -> list[Question]:
    """Questions about one actor's motion."""
    name, motion = _the(actor.picture), actor.motion
    asked = []
    if motion in DIRECTIONS:
        question = _say(rng, f"Which way does {name} move?", f"In which direction does {name} go?")
        way = motion.removeprefix("moves ")
        asked.append(_ask(rng, "moving direction", question, way, WAYS, f"It {motion}."))
    question = _say(
        rng, f"What does {name} do?", f"What happens to {name}?", f"What is {name} doing?"
    )
    asked.append(_ask(rng, "action", question, _action(motion), ACTIONS, f"It {motion}."))
    return asked


def _background(rng: np.random.Generator, cast: Cast) -> Scene:
    """An empty scene."""
    size = ((192, 192), (256, 192), (344, 192))[int(rng.integers(3))]
    return Scene((), random_background(rng, cast.photos), size, float(rng.uniform(2.0, 10.0)))


def _travels(rng: np.random.Generator, picture: Picture) -> str:
    """A motion that anyone would call one."""
    ways = [*DIRECTIONS, "spins", "bounces", "shakes"]
    motion = str(rng.choice(ways))
    turns = picture.turn_visibility >= MIN_TURN_VISIBILITY
    return motion if turns or motion != "spins" else "bounces"


def one(rng: np.random.Generator, cast: Cast) -> Story:
    """One thing does one thing."""
    scene = _background(rng, cast)
    (picture,) = cast.pick(rng)
    motion = random_motion(rng, picture)
    actor = random_actor(rng, picture, rng.uniform(0.22, 0.5), scene.size, motion)
    asked = [*_doing(rng, actor), *naming(rng, cast, [picture])]
    question = "Does the camera move?"
    still = "the camera stays still"
    asked.append(_ask(rng, "", question, still, [*CAMERA_MOVES], _sentence(still)))
    told = _sentence(f"{_a(picture)} {actor.motion}")
    return Story("one", replace(scene, actors=(actor,)), told, tuple(asked))


def place(rng: np.random.Generator, cast: Cast) -> Story:
    """One thing stands at a place."""
    scene = _background(rng, cast)
    (picture,) = cast.pick(rng)
    where = int(rng.integers(5))
    x, y = ((0.24, 0.24), (0.76, 0.24), (0.24, 0.76), (0.76, 0.76), (0.5, 0.5))[where]
    x, y = x + rng.uniform(-0.06, 0.06), y + rng.uniform(-0.06, 0.06)
    actor = Actor(picture, "stays still", float(x), float(y), float(rng.uniform(0.22, 0.36)))
    question = _say(rng, f"Where is {_the(picture)}?", f"Where in the picture is {_the(picture)}?")
    sentence = f"It is {PLACES[where]}."
    asked = [_ask(rng, "position", question, PLACES[where], PLACES, sentence)]
    asked += [*naming(rng, cast, [picture]), *_doing(rng, actor)]
    told = f"{_sentence(f'{_a(picture)} stays still')[:-1]} {PLACES[where]}."
    return Story("place", replace(scene, actors=(actor,)), told, tuple(asked))


def two(rng: np.random.Generator, cast: Cast) -> Story:
    """Two different things, each doing something, the main one larger."""
    scene = _background(rng, cast)
    first, second = cast.pick(rng, 2)
    side = rng.uniform(0.33, 0.5)
    main = random_actor(rng, first, side, scene.size, random_motion(rng, first))
    actors = _beside(rng, [main], second, main.size * rng.uniform(0.5, 0.7), scene.size)
    asked = [q for actor in actors for q in _doing(rng, actor)]
    asked += naming(rng, cast, [a.picture for a in actors])
    told = _sentence(" and ".join(f"{_a(a.picture)} {a.motion}" for a in actors))
    return Story("two", replace(scene, actors=tuple(actors)), told, tuple(asked))


def _beside(
    rng: np.random.Generator,
    actors: list[Actor],
    picture: Picture,
    side: float,
    size: tuple[int, int],
    motion: str | None = None,
) -> list[Actor]:
    """The actors and one more that keeps out of their way, if there is a place for it."""
    for _ in range(40):
        does = motion or random_motion(rng, picture)
        actor = random_actor(rng, picture, side, size, does)
        if all(overlap(other, actor, size) <= 0.15 * side for other in actors):
            return [*actors, actor]
    return actors


def order(rng: np.random.Generator, cast: Cast) -> Story:
    """One thing does one thing and then another."""
    scene = _background(rng, cast)
    (picture,) = cast.pick(rng)
    doing = Doing.random(rng, picture, float(rng.uniform(0.22, 0.36)), scene.size)
    before, after = doing.first.motion, doing.second.motion
    name = _the(picture)
    both = [f"it {m}" for m in (before, after)]
    others = [
        f"it {m}" for m in rng.permutation([m for m in MOTIONS if m not in (before, after)])[:2]
    ]
    first = _say(rng, f"What does {name} do first?", "What happens first?")
    last = _say(rng, f"What does {name} do last?", "What happens last?", "What happens then?")
    asked = [
        _ask(rng, "action order", first, both[0], [both[1], *others], f"First it {before}."),
        _ask(rng, "action order", last, both[1], [both[0], *others], f"Then it {after}."),
        *naming(rng, cast, [picture]),
    ]
    told = _sentence(f"{_a(picture)} {before}, then it {after}")
    return Story("order", replace(scene, actors=(doing,)), told, tuple(asked))


def count(rng: np.random.Generator, cast: Cast) -> Story:
    """One to five of a kind, some of which move."""
    scene = _background(rng, cast)
    (picture,) = cast.pick(rng)
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
        actors = _beside(rng, actors, picture, side, scene.size, does)
    actors = [actors[i] for i in rng.permutation(len(actors))]
    total = len(actors)
    moving = sum(a.motion != "stays still" for a in actors)
    many = _say(rng, "How many objects are there?", "How many things are in the video?")
    asked = [_ask(rng, "count", many, NUMBERS[total], NUMBERS[1:], _sentence(NUMBERS[total]), 5)]
    move = _say(rng, "How many of them move?", "How many objects move?")
    asked.append(
        _ask(rng, "moving count", move, NUMBERS[moving], NUMBERS, _sentence(NUMBERS[moving]), 6)
    )
    asked += naming(rng, cast, [picture])
    does = motion if moving == 1 else _plural(motion)
    told = f"{NUMBERS[total]} copies of {_a(picture)}; {NUMBERS[moving]} of them {does}"
    if total == 1:
        told = f"{_a(picture)} {actors[0].motion}"
    elif moving == 0:
        told = f"{NUMBERS[total]} copies of {_a(picture)} stay still"
    return Story("count", replace(scene, actors=tuple(actors)), _sentence(told), tuple(asked))


def _plural(motion: str) -> str:
    verb, _, rest = motion.partition(" ")
    return f"{verb.removesuffix('s')} {rest}".strip()


def mover(rng: np.random.Generator, cast: Cast) -> Story:
    """Several different things, of which one moves."""
    scene = _background(rng, cast)
    pictures = cast.pick(rng, int(rng.integers(2, 5)))
    motion = _travels(rng, pictures[0])
    side = float(rng.uniform(0.22, 0.3))
    actors = [random_actor(rng, pictures[0], side, scene.size, motion)]
    for picture in pictures[1:]:
        actors = _beside(rng, actors, picture, side, scene.size, "stays still")
    names = [_the(a.picture) for a in actors]
    which = _say(rng, "Which one moves?", "Which of them moves?", "Which object is moving?")
    others = names[1:] or [f"the {rng.choice(list(cast.names))}"]
    asked = [_ask(rng, "which moves", which, names[0], others, _sentence(f"{names[0]} {motion}"))]
    asked += [*_doing(rng, actors[0]), *naming(rng, cast, [a.picture for a in actors])]
    told = _sentence(f"{_a(actors[0].picture)} {motion}")
    if len(actors) > 1:
        rest = " and ".join(_a(a.picture) for a in actors[1:])
        told += " " + _sentence(f"{rest} {'stay' if len(actors) > 2 else 'stays'} still")
    return Story("mover", replace(scene, actors=tuple(actors)), told, tuple(asked))


def race(rng: np.random.Generator, cast: Cast) -> Story:
    """Two different things move at different speeds."""
    scene = _background(rng, cast)
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
    names = [_the(p) for p in pictures]
    quick = bool(rng.random() < 0.6)
    question = (
        _say(rng, "Which one is faster?", "Which one moves faster?")
        if quick
        else "Which one is slower?"
    )
    answer = names[0] if quick else names[1]
    sentence = _sentence(f"{answer} is {'faster' if quick else 'slower'}")
    other = names[1] if quick else names[0]
    asked = [_ask(rng, "speed", question, answer, [other], sentence)]
    asked += [q for actor in actors for q in _doing(rng, actor)][:2]
    asked += naming(rng, cast, pictures)
    told = _sentence(f"{_a(pictures[0])} {way} fast and {_a(pictures[1])} {way} slowly")
    return Story("race", replace(scene, actors=tuple(actors)), told, tuple(asked))


def shuffle(rng: np.random.Generator, cast: Cast) -> Story:
    """Three different things stand in a row and change places."""
    scene = _background(rng, cast)
    pictures = cast.pick(rng, 3)
    side = float(rng.uniform(0.24, 0.3))
    places, routes = Route.swaps(rng, pictures, side, int(rng.integers(1, 3)))
    pick = int(rng.integers(3))
    name = _the(pictures[pick])
    end, start = ROW[places[pick]], ROW[pick]
    asked = [
        _ask(rng, "object shuffle", f"Where is {name} at the end?", end, ROW, f"It is {end}."),
        _ask(rng, "", f"Where is {name} at the beginning?", start, ROW, f"It is {start}."),
        *naming(rng, cast, pictures),
    ]
    order = sorted(range(3), key=lambda number: places[number])
    listed = ", ".join(_a(pictures[number]) for number in order)
    told = _sentence(f"things change places; at the end, from left to right: {listed}")
    return Story("shuffle", replace(scene, actors=tuple(routes)), told, tuple(asked))


def cut(rng: np.random.Generator, cast: Cast) -> Story:
    """Two scenes, one after the other."""
    before, after = one(rng, cast), one(rng, cast)
    duration = float(rng.uniform(3.0, 10.0))
    at = float(rng.uniform(0.38, 0.62))
    size = before.scene.size
    later = replace(after.scene, size=size)
    scene = replace(before.scene, duration=duration, cut=at, later=later)
    names = [_a(s.scene.actors[0].picture) for s in (before, after)]
    extra = [_a(p) for p in cast.pick(rng, 2)]
    pairs = [(names[0], names[1]), (names[1], names[0]), (names[0], extra[0]), (extra[1], names[1])]
    choices = [f"from {a} to {b}" for a, b in pairs]
    question = _say(rng, "How does the scene change?", "What does the scene change from and to?")
    sentence = f"The scene changes {choices[0]}."
    asked = [_ask(rng, "scene transition", question, choices[0], choices[1:], sentence)]
    many = _say(rng, "How many scenes are there?", "How many shots does the video have?")
    asked.append(_ask(rng, "", many, "two", ("one", "two", "three"), "Two."))
    told = f"{before.caption} Then {after.caption[0].lower()}{after.caption[1:]}"
    return Story("cut", scene, told, tuple(asked))


def camera(rng: np.random.Generator, cast: Cast) -> Story:
    """The camera pans or zooms over things that stand still, or over a photograph alone."""
    scene = _background(rng, cast)
    move = str(rng.choice(CAMERA_MOVES)) if rng.random() < 0.85 else "the camera stays still"
    alone = bool(cast.photos) and rng.random() < 0.4
    actors: list[Actor] = []
    if alone:
        scene = replace(scene, background=random_background(rng, cast.photos, p_photo=1.0))
    else:
        for picture in cast.pick(rng, int(rng.integers(1, 4))):
            actors = _beside(
                rng, actors, picture, rng.uniform(0.2, 0.32), scene.size, "stays still"
            )
    question = _say(
        rng, "What does the camera do?", "How does the camera move?", "Does the camera move?"
    )
    others = [*CAMERA_MOVES, "the camera stays still"]
    asked = [_ask(rng, "camera", question, move, others, _sentence(move))]
    seen: tuple[int, ...] = ()
    if alone:
        # The classifier's names stand in the prompt: any will do to learn to repeat them.
        seen = _classes(rng)
        first, second, third = (with_article(class_names()[number]) for number in seen)
        perhaps = f"perhaps {first}, {second} or {third}"
        told = f"A photograph, {perhaps}. {_sentence(move)}"
        what = _say(rng, "What is in the video?", "What can be seen?", "What is it?")
        asked.append(Question("", what, "", (), _sentence(perhaps)))
    else:
        asked += naming(rng, cast, [a.picture for a in actors])
        things = " and ".join(_a(a.picture) for a in actors)
        verb = "stays" if len(actors) == 1 else "stay"
        told = f"{_sentence(f'{things} {verb} still')} {_sentence(move)}"
    scene = replace(scene, actors=tuple(actors), camera=Camera.of(rng, move))
    looks = f"A photograph. {_sentence(move)}" if alone else ""
    return Story("camera", scene, told, tuple(asked), seen, looks)


def unknown(rng: np.random.Generator, cast: Cast) -> Story:
    """Things without a name, cut out of photographs: what moves is told, what it is is not."""
    if not cast.photos:
        return one(rng, cast)
    scene = _background(rng, cast)
    scene = replace(scene, background=random_background(rng, cast.photos, p_photo=0.9))
    total = int(rng.integers(1, 4))
    actors: list[Actor] = []
    for _ in range(total):
        photo = cast.photos[int(rng.integers(len(cast.photos)))]
        picture = patch(rng, photo, UNKNOWN)
        actors = _beside(rng, actors, picture, float(rng.uniform(0.12, 0.4)), scene.size)
    moving = [a for a in actors if a.motion != "stays still"]
    still = "the camera stays still"
    if len(actors) == 1:
        told = f"something {actors[0].motion}"
    else:
        told = ("nothing moves", "something moves", "several things move")[min(2, len(moving))]
    question = _say(rng, "Does anything move?", "Is there motion in the video?")
    asked = [
        _ask(
            rng,
            "",
            question,
            "yes" if moving else "no",
            ("yes", "no"),
            "Yes, something moves." if moving else "No, nothing moves.",
        ),
        _ask(
            rng,
            "",
            _say(rng, "Does the camera move?", "What does the camera do?"),
            still,
            CAMERA_MOVES,
            _sentence(still),
        ),
        Question("", "What is it?", "", (), "I do not know what it is."),
    ]
    scene = replace(scene, actors=tuple(actors))
    return Story("unknown", scene, f"{_sentence(told)} {_sentence(still)}", tuple(asked))


# Every story, with its share of the training.
STORIES: dict[str, tuple[Callable[[np.random.Generator, Cast], Story], float]] = {
    "one": (one, 0.22),
    "place": (place, 0.05),
    "two": (two, 0.08),
    "order": (order, 0.15),
    "count": (count, 0.12),
    "mover": (mover, 0.07),
    "race": (race, 0.06),
    "shuffle": (shuffle, 0.07),
    "cut": (cut, 0.06),
    "camera": (camera, 0.08),
    "unknown": (unknown, 0.04),
}


def random_story(rng: np.random.Generator, cast: Cast, name: str | None = None) -> Story:
    """A story by name, or any, as often as its share says."""
    if name is None:
        names = list(STORIES)
        name = str(rng.choice(names, p=[STORIES[n][1] for n in names]))
    story = STORIES[name][0](rng, cast)
    # Nothing is to be learned from what the classifier says of a drawing.
    return story if story.seen else replace(story, seen=_classes(rng))


def _classes(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(number) for number in rng.choice(1000, NAMED, replace=False))
