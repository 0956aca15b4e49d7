"""Questions about synthetic clips with choices and answers, and wordings that scenarios share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from reellama.models.synthetic.assets.picture_pool import UNNAMED, PicturePool
from reellama.models.synthetic.assets.pictures import Picture
from reellama.models.synthetic.assets.shapes import COLOURS
from reellama.models.synthetic.scene import DIRECTIONS, MOTIONS, Drawable, reversed_motion
from reellama.models.synthetic.scene_captions import as_sentence, with_article
from reellama.models.synthetic.synthetic_clip import ClipQuestion
from reellama.models.vision.imagenet_labels import TOP_CLASSES, class_names

M = TypeVar("M", bound=Drawable)

NUMBER_WORDS = ("none", "one", "two", "three", "four", "five")
DIRECTION_WORDS = tuple(m.removeprefix("moves ") for m in DIRECTIONS)
# Actions as choices of a question; all directions are the one action "moves".
ACTION_WORDS = ("moves", *(m for m in MOTIONS if m not in DIRECTIONS))


def indefinite_name(picture: Picture) -> str:
    """The kind of a picture with "a" or "an"; "something" for an unnamed one."""
    return picture.kind if picture.kind == UNNAMED else with_article(picture.kind)


def definite_name(picture: Picture) -> str:
    """The kind of a picture with "the"; "it" for an unnamed one."""
    return "it" if picture.kind == UNNAMED else f"the {picture.kind}"


def pick_wording(rng: np.random.Generator, *wordings: str) -> str:
    """One of several wordings, at random."""
    return wordings[int(rng.integers(len(wordings)))]


def choice_question(
    rng: np.random.Generator,
    task: str,
    question: str,
    answer: str,
    others: Sequence[str],
    sentence: str,
    max_choices: int = 4,
) -> ClipQuestion:
    """A question whose choices are the answer and some of `others`, in random order.

    task, sentence: see `ClipQuestion`.
    """
    wrong = [choice for choice in dict.fromkeys(others) if choice != answer]
    choices = [answer, *(wrong[i] for i in rng.permutation(len(wrong))[: max_choices - 1])]
    shuffled = tuple(choices[i] for i in rng.permutation(len(choices)))
    return ClipQuestion(task, question, answer, shuffled, sentence)


def unanswerable_questions(
    rng: np.random.Generator, question: str, choices: Sequence[str], sentence: str
) -> list[ClipQuestion]:
    """A question without a right answer: one copy for each choice, with that choice as its answer,
    so that the model learns to give all choices the same probability."""
    return [
        choice_question(rng, "", question, choice, choices, sentence, len(choices))
        for choice in choices
    ]


def direction_choices(rng: np.random.Generator, direction: str) -> list[str]:
    """Choices for a direction: the direction, another one, and the opposites of both.

    Shuffled frames show the line of a motion but not its direction. Both directions of two lines
    are choices, so that the choices alone do not give the line away.
    """
    same_line = (direction, _opposite(direction))
    other = str(rng.choice([word for word in DIRECTION_WORDS if word not in same_line]))
    return [*same_line, other, _opposite(other)]


def _opposite(direction: str) -> str:
    return reversed_motion(f"moves {direction}").removeprefix("moves ")


def naming_questions(
    rng: np.random.Generator, pool: PicturePool, pictures: Sequence[Picture]
) -> list[ClipQuestion]:
    """Questions about the objects of a clip whatever their motions: kind, existence, colour."""
    main = pictures[0]
    if main.kind == UNNAMED:
        return []
    questions = []
    if len({p.kind for p in pictures}) == 1:
        question = pick_wording(
            rng, "What is in the video?", "What can be seen?", "What do you see?"
        )
        others = [indefinite_name(p) for p in pool.pick(rng, 3)]
        questions.append(
            choice_question(
                rng,
                "object naming",
                question,
                indefinite_name(main),
                others,
                as_sentence(indefinite_name(main)),
            )
        )
    present = bool(rng.random() < 0.5)
    absent = [n for n in rng.choice(list(pool.names), 3) if all(n not in p.kind for p in pictures)]
    if present or absent:
        noun = indefinite_name(main) if present else with_article(str(absent[0]))
        question = pick_wording(
            rng, f"Is there {noun} in the video?", f"Does the video show {noun}?"
        )
        answer = "yes" if present else "no"
        sentence = (
            f"Yes, there is {noun}." if present else f"No, there is no {noun.split(' ', 1)[1]}."
        )
        questions.append(
            choice_question(rng, "object existence", question, answer, ("yes", "no"), sentence)
        )
    colour, _, thing = main.kind.partition(" ")
    if colour in COLOURS and thing and len(pictures) == 1:
        question = pick_wording(rng, "What colour is it?", f"What colour does the {thing} have?")
        questions.append(
            choice_question(rng, "attribute", question, colour, list(COLOURS), f"It is {colour}.")
        )
    return questions


def guess_text(classes: Sequence[int]) -> str:
    """ImageNet classes as a guess: "perhaps a tench, a hen or a cock"."""
    *others, last = (with_article(class_names()[number]) for number in classes)
    return f"perhaps {', '.join(others)} or {last}"


def count_question(rng: np.random.Generator, total: int) -> ClipQuestion:
    """The question for the number of objects."""
    question = pick_wording(rng, "How many objects are there?", "How many things are in the video?")
    answer = NUMBER_WORDS[total]
    return choice_question(rng, "count", question, answer, NUMBER_WORDS[1:], as_sentence(answer), 5)


def motion_caption(moving: int) -> str:
    """The caption of `moving` moving objects without names."""
    return ("nothing moves", "something moves", "several things move")[min(2, moving)]


def is_moving(actor: Drawable) -> bool:
    """Whether an actor has any motion but staying still."""
    return actor.motion != "stays still"


def description_order(actors: Sequence[M]) -> list[M]:
    """The order of objects in a description: moving ones first, each group from left to right."""
    return sorted(actors, key=lambda actor: (not is_moving(actor), actor.pose(0.0).x))


def random_classes(rng: np.random.Generator) -> tuple[int, ...]:
    """Random ImageNet classes, as many as the classifier reports."""
    return tuple(int(number) for number in rng.choice(1000, TOP_CLASSES, replace=False))
