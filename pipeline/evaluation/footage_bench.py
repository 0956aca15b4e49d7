"""Evaluate a bundle on real footage, with questions and answers derived from people's captions.

    split = CaptionedSplit(read_captioned(dev), read_captioned(train), max_clips=200)
    evaluate_footage("mini", split, ["captions", "search"])

Any bundle that can chat can be evaluated; the search task also needs its visual tower.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reellama.pipeline.chat.video_chat import VideoChat
from reellama.pipeline.evaluation.captioned_clips import CaptionedSplit
from reellama.pipeline.evaluation.controls import FOOTAGE_CONTROLS
from reellama.pipeline.evaluation.footage_report import FootageScore
from reellama.pipeline.evaluation.runner import QuestionProgress
from reellama.pipeline.evaluation.tasks import (
    motion_claims,
    real_captions,
    subject_kind,
    video_search,
    yes_no_pairs,
)

RunTask = Callable[[VideoChat, CaptionedSplit, Sequence[str], QuestionProgress], FootageScore]
FOOTAGE_TASKS: dict[str, RunTask] = {
    "captions": real_captions.run,
    "yes-no": yes_no_pairs.run,
    "subject-kind": subject_kind.run,
    "motion": motion_claims.run,
    "search": video_search.run,
}


@dataclass(frozen=True)
class FootageReport:
    """The scores of a run, by task."""

    bundle: str
    llm: Path
    split: CaptionedSplit
    scores: dict[str, FootageScore]
    command: str = ""

    def figures(self) -> dict[str, Any]:
        """The scores without single answers, for `scores.json`."""
        fields = {"command": self.command, "llm": self.llm.name, "seed": self.split.seed}
        return fields | {"tasks": {name: score.figures() for name, score in self.scores.items()}}

    def to_json(self) -> dict[str, Any]:
        """The object that `reellama eval --bench --json` writes."""
        tasks = {name: score.to_json() for name, score in self.scores.items()}
        return {"bundle": self.bundle, **self.figures(), "tasks": tasks}


def evaluate_footage(
    bundle: str | Path,
    split: CaptionedSplit,
    tasks: Sequence[str] = tuple(FOOTAGE_TASKS),
    *,
    with_controls: bool = True,
    command: str = "",
    progress: Callable[[str, int], None] = lambda task, done: None,
    **options: Any,
) -> FootageReport:
    """Run tasks of FOOTAGE_TASKS.

    Args:
        with_controls: also ask without the video and about another clip.
        command: the command line, for the report.
        progress: called with a task's name and the questions done.
        options: keyword arguments of `VideoChat` (`llm`, `frames`, `n_ctx`, ...).
    """
    scores: dict[str, FootageScore] = {}
    controls = FOOTAGE_CONTROLS if with_controls else ()
    with VideoChat(bundle=bundle, **options) as video_chat:
        for name in tasks:

            def show(done: int, name: str = name) -> None:
                progress(name, done)

            scores[name] = FOOTAGE_TASKS[name](video_chat, split, controls, show)
        llm = Path(video_chat.llm)
    return FootageReport(str(bundle), llm, split, scores, command)
