"""How well descriptions of rendered clips tell what happens in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from reellama.models.synthetic.scene import MOTIONS, Drawable
from reellama.pipeline.evaluation.accuracy import Accuracy

_MOTION = re.compile(r"\b(" + "|".join(sorted(MOTIONS, key=len, reverse=True)) + r")\b")


@dataclass(frozen=True)
class DescriptionVerdict:
    """What one description got right of the main actor and of a second one, if there is one."""

    motion: bool
    picture: bool
    second_motion: bool | None = None
    second_picture: bool | None = None


def judge_description(description: str, actors: Sequence[Drawable]) -> DescriptionVerdict:
    """Compare a description with the actors of a scene, main actor first.

    An actor's motion is right when the motion that the description names at its place is its own;
    its picture is right when the words before that motion, and after the one before, name its kind.
    """
    text = description.lower()
    found = list(_MOTION.finditer(text))
    verdicts: list[bool] = []
    start = 0
    for place, actor in enumerate(actors[:2]):
        match = found[place] if place < len(found) else None
        words = text[start : match.start() if match else len(text)]
        start = match.end() if match else len(text)
        verdicts.append(match is not None and match[1] == actor.motion)
        verdicts.append(re.search(rf"\b{re.escape(actor.picture.kind)}\b", words) is not None)
    return DescriptionVerdict(*verdicts)


def accuracies(verdicts: Sequence[DescriptionVerdict]) -> dict[str, Accuracy]:
    """The share of right answers by what was judged: clips of one actor, then those of two."""
    columns: dict[str, list[bool]] = {}
    for verdict in verdicts:
        if verdict.second_motion is None or verdict.second_picture is None:
            right_by_name = {"motion": verdict.motion, "picture": verdict.picture}
        else:
            right_by_name = {
                "main_motion_of_two": verdict.motion,
                "main_picture_of_two": verdict.picture,
                "second_motion_of_two": verdict.second_motion,
                "second_picture_of_two": verdict.second_picture,
            }
        for name, right in right_by_name.items():
            columns.setdefault(name, []).append(right)
    return {name: Accuracy(sum(column), len(column)) for name, column in columns.items()}
