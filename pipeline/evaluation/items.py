"""Questions about videos, with the right answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

Kind = Literal["choice", "open", "caption"]


@dataclass(frozen=True)
class EvalItem:
    """A question about a video, or with `references` a video to describe.

    Attributes:
        choices: the possible answers, including `answer`; empty for an open question.
        start, end: the part of the video that is asked about, in seconds.
        references: descriptions by people; the question may then be empty.
        also: other right answers to an open question.
        listed: whether the question lists its choices.
    """

    task: str
    question: str
    answer: str
    choices: tuple[str, ...]
    video: Path
    start: float | None = None
    end: float | None = None
    references: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    listed: bool = True

    @property
    def kind(self) -> Kind:
        """How the answer is judged."""
        if self.references:
            return "caption"
        return "choice" if self.choices else "open"


def by_video(items: Iterator[EvalItem] | Sequence[EvalItem]) -> Iterator[list[EvalItem]]:
    """Questions about the same part of the same video that follow one another."""
    for _, group in groupby(items, key=_part):
        yield list(group)


def _part(item: EvalItem) -> tuple[Path, float | None, float | None]:
    return item.video, item.start, item.end
