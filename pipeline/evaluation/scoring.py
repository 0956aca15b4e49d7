"""How well descriptions of rendered clips tell what happens in them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from reellama.models.synthetic.scene import MOTIONS, Drawable

_MOTION = re.compile(r"\b(" + "|".join(sorted(MOTIONS, key=len, reverse=True)) + r")\b")


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers, with its 95% interval (Wilson, 1927)."""

    right: int
    of: int

    @property
    def value(self) -> float:
        return self.right / self.of if self.of else math.nan

    def interval(self, z: float = 1.96) -> tuple[float, float]:
        """Lower and upper end."""
        if not self.of:
            return 0.0, 1.0
        p, n = self.value, self.of
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return middle - half, middle + half

    def to_json(self) -> dict[str, object]:
        """For `scores.json`."""
        low, high = self.interval()
        return {
            "share": round(self.value, 4),
            "of": self.of,
            "95%": [round(low, 4), round(high, 4)],
        }


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
            found = {"motion": verdict.motion, "picture": verdict.picture}
        else:
            found = {
                "main_motion_of_two": verdict.motion,
                "main_picture_of_two": verdict.picture,
                "second_motion_of_two": verdict.second_motion,
                "second_picture_of_two": verdict.second_picture,
            }
        for name, right in found.items():
            columns.setdefault(name, []).append(right)
    return {name: Accuracy(sum(column), len(column)) for name, column in columns.items()}
