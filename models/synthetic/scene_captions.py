"""Captions of scenes in a fixed word order, and questions with their answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reellama.models.synthetic.scene import DIRECTIONS, Drawable, Scene

# Answers to _DIRECTION_QUESTIONS by motion.
_DIRECTION_ANSWERS = {
    **{motion: f"It {motion}." for motion in DIRECTIONS},
    "stays still": "It does not move.",
}
DESCRIBE_QUESTIONS = (
    "Describe the video.",
    "What happens in the video?",
    "What is happening?",
    "Describe what you see.",
    "What does the video show?",
)
_NAMING_QUESTIONS = ("What is in the video?", "What can be seen in the video?", "What do you see?")
_ACTION_QUESTIONS = ("What does the {} do?", "What is the {} doing?", "How does the {} move?")
_MOTION_QUESTIONS = ("How does it move?", "What is the motion?", "What happens to it?")
_DIRECTION_QUESTIONS = ("Which way does the {} move?", "In which direction does the {} go?")
_EXISTENCE_QUESTIONS = (
    "Is there {} in the video?",
    "Does the video show {}?",
    "Can you see {} in the video?",
)
_COUNT_QUESTIONS = ("How many objects are there?", "How many things are in the video?")


def with_article(noun: str) -> str:
    """The noun after "a" or "an", by its first sound: "a dog", "an owl", "a unicorn"."""
    silent_consonant = noun.startswith(("hour", "x-ray"))
    vowel = noun[0] in "aeiou" and not noun.startswith("uni")
    return f"{'an' if vowel or silent_consonant else 'a'} {noun}"


def as_sentence(words: str) -> str:
    """Words with a capital and a full stop."""
    return f"{words[0].upper()}{words[1:]}."


def _things(actors: Sequence[Drawable]) -> str:
    return " and ".join(with_article(actor.picture.kind) for actor in actors)


def scene_caption(scene: Scene) -> str:
    """One sentence, main actor first, such as "A red apple moves right and a dog spins."."""
    return as_sentence(
        " and ".join(f"{with_article(a.picture.kind)} {a.motion}" for a in scene.actors)
    )


def scene_questions(
    scene: Scene, rng: np.random.Generator, kinds: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Questions about a scene of one or two actors in random wordings, with their answers.

    kinds: names of object kinds; one that the scene does not show is asked for, too. Without them,
    every "Is there ...?" is answered with yes.
    """

    def wording(choices: Sequence[str], noun: str = "") -> str:
        return choices[int(rng.integers(len(choices)))].format(noun)

    present = [actor.picture.kind for actor in scene.actors]
    turns = [
        (wording(DESCRIBE_QUESTIONS), scene_caption(scene)),
        (wording(_NAMING_QUESTIONS), as_sentence(_things(scene.actors))),
        (wording(_COUNT_QUESTIONS), ("One.", "Two.")[len(present) - 1]),
    ]
    if len(scene.actors) == 1:
        answer = as_sentence(f"the {present[0]} {scene.actors[0].motion}")
        turns.append((wording(_MOTION_QUESTIONS), answer))
    for actor in scene.actors:
        kind, motion = actor.picture.kind, actor.motion
        turns.append((wording(_ACTION_QUESTIONS, kind), f"It {motion}."))
        direction = _DIRECTION_ANSWERS.get(motion, f"It stays in place and {motion}.")
        turns.append((wording(_DIRECTION_QUESTIONS, kind), direction))
        noun = with_article(kind)
        turns.append((wording(_EXISTENCE_QUESTIONS, noun), f"Yes, there is {noun}."))
    absent = [kind for kind in kinds if kind not in present]
    if absent:
        kind = absent[int(rng.integers(len(absent)))]
        question = wording(_EXISTENCE_QUESTIONS, with_article(kind))
        turns.append((question, f"No, there is no {kind}."))
    return turns
