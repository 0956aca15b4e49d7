"""Report a run by task: as a table, as JSON, and in the bundle's `scores.json`."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from reellama.gguf_tools.atomic_write import write_atomically
from reellama.models.bundle import Bundle
from reellama.models.bundle_config import SCORES
from reellama.pipeline.evaluation import caption_metrics
from reellama.pipeline.evaluation.accuracy import Accuracy
from reellama.pipeline.evaluation.controls import control_warning
from reellama.pipeline.evaluation.items import Kind
from reellama.pipeline.evaluation.runner import AnsweredItem, EvaluationResults, ModelReply


@dataclass(frozen=True)
class TaskScore:
    """The score of one task: accuracy of choices and open answers, BLEU-4 and CIDEr of captions.

    Attributes:
        chance: accuracy of guessing, if there are choices.
        generated: the share of greedy answers that name the right choice and no other.
        controls: the accuracy by control.
        captions: scores by control ("" for none) and metric.
        tokens, seconds: medians over the questions.
        warning: why the score proves nothing, or "".
    """

    name: str
    kind: Kind
    accuracy: Accuracy
    chance: float | None
    generated: Accuracy | None
    controls: dict[str, Accuracy]
    captions: dict[str, dict[str, float]]
    tokens: float
    seconds: float
    warning: str

    def to_json(self) -> dict[str, Any]:
        """The score for JSON, without the fields that do not apply."""
        fields: dict[str, Any] = {"kind": self.kind, "questions": self.accuracy.of}
        if self.kind == "caption":
            fields["scores"] = _rounded(self.captions[""])
            fields["controls"] = {k: _rounded(v) for k, v in self.captions.items() if k}
        else:
            fields["accuracy"] = self.accuracy.to_json()
            fields["controls"] = {k: accuracy.to_json() for k, accuracy in self.controls.items()}
        if self.chance is not None and self.generated:
            fields |= {"chance": round(self.chance, 4), "generated": self.generated.to_json()}
        fields |= {"tokens": self.tokens, "seconds": round(self.seconds, 4)}
        return fields | ({"remark": self.warning} if self.warning else {})


@dataclass(frozen=True)
class EvaluationReport:
    """The scores of a run."""

    results: EvaluationResults
    tasks: list[TaskScore]
    command: str = ""
    seed: int | None = None
    missing: tuple[str, ...] = ()  # videos that questions name, but that do not exist

    def mean(self, control: str = "") -> float | None:
        """The mean accuracy of the multiple-choice tasks, or of their control."""
        accuracies = [
            task.controls[control] if control else task.accuracy
            for task in self.tasks
            if task.kind == "choice"
        ]
        values = [accuracy.value for accuracy in accuracies]
        return statistics.mean(values) if values else None

    @property
    def chance(self) -> float:
        """The mean accuracy of guessing in the multiple-choice tasks; nan if there are none."""
        chances = [task.chance for task in self.tasks if task.chance is not None]
        return statistics.mean(chances) if chances else math.nan

    def figures(self) -> dict[str, Any]:
        """The scores without single questions, for `scores.json`."""
        results = self.results
        fields: dict[str, Any] = {"command": self.command}
        if self.seed is not None:
            fields["seed"] = self.seed
        fields |= {"llm": results.llm.name, "questions": len(results.answered)}
        fields["seconds_a_video"] = round(statistics.median(results.video_seconds), 4)
        if self.mean() is not None:
            names = ("", *results.controls)
            fields["mean"] = {name or "accuracy": round(self.mean(name) or 0, 4) for name in names}
            fields["mean"]["chance"] = round(self.chance, 4)
        return fields | {"tasks": {task.name: task.to_json() for task in self.tasks}}

    def to_json(self) -> dict[str, Any]:
        """The object that `reellama eval --json` writes."""
        return {
            "bundle": self.results.bundle,
            **self.figures(),
            "missing": list(self.missing),
            "unread": list(self.results.unreadable),
            "answers": [_answer(answered) for answered in self.results.answered],
        }


def build_report(
    results: EvaluationResults,
    *,
    command: str = "",
    seed: int | None = None,
    missing: Sequence[str] = (),
) -> EvaluationReport:
    """Compute the score of each task, in the order of the questions.

    Args:
        command: the command line.
        seed: seed of drawn questions.
        missing: videos that questions name, but that do not exist.
    """
    groups: dict[tuple[str, Kind], list[AnsweredItem]] = {}
    for answered in results.answered:
        groups.setdefault((answered.item.task, answered.item.kind), []).append(answered)
    names = [task for task, _ in groups]
    tasks = [
        _score(f"{task} ({kind})" if names.count(task) > 1 else task, group)
        for (task, kind), group in groups.items()
    ]
    return EvaluationReport(results, tasks, command, seed, tuple(missing))


def _score(name: str, group: Sequence[AnsweredItem]) -> TaskScore:
    item = group[0].item
    replies: dict[str, list[ModelReply]] = {"": [answered.reply for answered in group]}
    for control in group[0].controls:
        replies[control] = [answered.controls[control] for answered in group]
    right = {name: [reply.right for reply in column] for name, column in replies.items()}
    accuracies = {name: Accuracy(sum(column), len(column)) for name, column in right.items()}
    captions: dict[str, dict[str, float]] = {}
    warning = ""
    if item.kind == "caption":
        references = [answered.item.references for answered in group]
        captions = {
            name: caption_metrics.caption_scores([r.generated_text for r in column], references)
            for name, column in replies.items()
        }
    else:
        controls = {name: column for name, column in right.items() if name}
        warning = control_warning(item.task, right[""], controls)
    chance = generated = None
    if item.kind == "choice":
        chance = statistics.mean(1 / len(answered.item.choices) for answered in group)
        generated = Accuracy(sum(answered.reply.generated_right for answered in group), len(group))
    return TaskScore(
        name=name,
        kind=item.kind,
        accuracy=accuracies.pop(""),
        chance=chance,
        generated=generated,
        controls=accuracies,
        captions=captions,
        tokens=statistics.median(answered.reply.tokens for answered in group),
        seconds=statistics.median(answered.reply.seconds for answered in group),
        warning=warning,
    )


def report_table(report: EvaluationReport) -> RenderableType:
    """The scores as a table for a terminal, with notes underneath."""
    results = report.results
    header = ["task", "right", "95%", "chance", "as text", *results.controls]
    grid = Table(*header, "of", "tokens", "s", box=None, pad_edge=False)
    for column in grid.columns[1:]:
        column.justify = "right"
    for task in report.tasks:
        grid.add_row(*_cells(task, results.controls))
    if (mean := report.mean()) is not None:
        controls = [_percent(report.mean(control) or 0) for control in results.controls]
        grid.add_row(
            "mean of multiple choice",
            *(_percent(mean), "", _percent(report.chance), "", *controls, "", "", ""),
            style="bold",
        )
    return Group(grid, *map(Text, notes(report)))


def notes(report: EvaluationReport) -> list[str]:
    """Warnings about scores that prove nothing, and about videos left out."""
    lines = [f"{task.name} {task.warning}" for task in report.tasks if task.warning]
    for reason, names in (("missing", report.missing), ("unreadable", report.results.unreadable)):
        if names:
            videos = "video" if len(names) == 1 else "videos"
            lines.append(f"left out, {len(names)} {videos} {reason}: {names[0]}, ..."[:300])
    return lines


def _cells(task: TaskScore, controls: Sequence[str]) -> list[str]:
    last = [str(task.accuracy.of), f"{task.tokens:.0f}", f"{task.seconds:.2f}"]
    if task.kind == "caption":
        scores = " ".join(f"{name} {value:.2f}" for name, value in task.captions[""].items())
        ciders = [f"{task.captions[control]['CIDEr']:.2f}" for control in controls]
        return [task.name, scores, "", "", "", *ciders, *last]
    low, high = task.accuracy.interval()
    return [
        task.name,
        _percent(task.accuracy.value),
        f"{100 * low:.0f} to {100 * high:.0f}",
        _percent(task.chance) if task.chance is not None else "",
        _percent(task.generated.value) if task.generated else "",
        *(_percent(task.controls[control].value) for control in controls),
        *last,
    ]


def report_json(report: EvaluationReport) -> str:
    """The report as the text of a JSON file."""
    return json.dumps(report.to_json(), indent=2, ensure_ascii=False) + "\n"


def record_scores(bundle: Bundle, name: str, entry: Mapping[str, Any]) -> None:
    """Write scores into the bundle's `scores.json` under `name`.

    `bundle.scores` reads the file again, as other evaluations may have written scores meanwhile.
    """
    scores = json.dumps({**bundle.scores, name: entry}, indent=2)
    write_atomically(bundle.folder / SCORES, scores + "\n")


def _answer(answered: AnsweredItem) -> dict[str, Any]:
    item, reply = answered.item, answered.reply
    # The folder of a drawn video was temporary and is removed by now.
    video = str(item.video) if item.video.exists() else item.video.name
    fields: dict[str, Any] = {
        "task": item.task,
        "video": video,
        "question": item.question,
        "answer": item.answer,
        "said": reply.generated_text,
    }
    if item.references:
        return fields | {"references": list(item.references)}
    fields |= {"right": reply.right}
    if item.choices:
        rounded = [round(p, 5) for p in reply.probabilities]
        choices = dict(zip(item.choices, rounded, strict=True))
        fields |= {"said_right": reply.generated_right, "choices": choices}
    controls = {name: control.right for name, control in answered.controls.items()}
    return fields | ({"controls": controls} if controls else {})


def _rounded(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in scores.items()}


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"
