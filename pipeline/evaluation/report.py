"""A run in figures: by task, for people, for machines and for the bundle's own record."""

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
from reellama.models.bundle import SCORES, Bundle
from reellama.pipeline.evaluation import caption_metrics
from reellama.pipeline.evaluation.accuracy import Accuracy
from reellama.pipeline.evaluation.controls import control_warning
from reellama.pipeline.evaluation.items import Kind
from reellama.pipeline.evaluation.runner import AnsweredItem, EvaluationResults, ModelReply


@dataclass(frozen=True)
class TaskScore:
    """One task: choices and open answers have an accuracy, captions have BLEU-4 and CIDEr.

    Attributes:
        chance: what guessing gets, where there are choices.
        generated: the share of greedy answers that name the right choice and no other.
        controls: the same as `accuracy`, by what was taken away.
        captions: scores by their names, as they are (under "") and in each control.
        tokens, seconds: medians of a question.
        warning: why the score proves nothing, if so.
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
        found: dict[str, Any] = {"kind": self.kind, "questions": self.accuracy.of}
        if self.kind == "caption":
            found |= {"scores": _rounded(self.captions[""])}
            found["controls"] = {k: _rounded(v) for k, v in self.captions.items() if k}
        else:
            found |= {"accuracy": self.accuracy.to_json()}
            found["controls"] = {k: each.to_json() for k, each in self.controls.items()}
        if self.chance is not None and self.generated:
            found |= {"chance": round(self.chance, 4), "generated": self.generated.to_json()}
        found |= {"tokens": self.tokens, "seconds": round(self.seconds, 4)}
        return found | ({"remark": self.warning} if self.warning else {})


@dataclass(frozen=True)
class EvaluationReport:
    """All tasks of a run."""

    results: EvaluationResults
    tasks: list[TaskScore]
    command: str = ""
    seed: int | None = None
    missing: tuple[str, ...] = ()  # videos that the questions name and nobody has

    def mean(self, control: str = "") -> float | None:
        """The mean accuracy of the multiple-choice tasks, as they are or in a control."""
        accuracies = [
            task.controls[control] if control else task.accuracy
            for task in self.tasks
            if task.kind == "choice"
        ]
        return statistics.mean(each.value for each in accuracies) if accuracies else None

    @property
    def chance(self) -> float:
        """The mean of what guessing gets in the multiple-choice tasks; nan without any."""
        found = [task.chance for task in self.tasks if task.chance is not None]
        return statistics.mean(found) if found else math.nan

    def figures(self) -> dict[str, Any]:
        """All but the single questions, for `scores.json`."""
        results = self.results
        found: dict[str, Any] = {"command": self.command}
        if self.seed is not None:
            found["seed"] = self.seed
        found |= {"llm": results.llm.name, "questions": len(results.answered)}
        found["seconds_a_video"] = round(statistics.median(results.video_seconds), 4)
        if self.mean() is not None:
            names = ("", *results.controls)
            found["mean"] = {name or "accuracy": round(self.mean(name) or 0, 4) for name in names}
            found["mean"]["chance"] = round(self.chance, 4)
        return found | {"tasks": {task.name: task.to_json() for task in self.tasks}}

    def to_json(self) -> dict[str, Any]:
        """The object of `reellama eval --json`."""
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
    """Count what was right, task by task, in the order in which they came."""
    groups: dict[tuple[str, Kind], list[AnsweredItem]] = {}
    for answered in results.answered:
        groups.setdefault((answered.item.task, answered.item.kind), []).append(answered)
    several = [task for task, _ in groups]
    tasks = [
        _score(f"{task} ({kind})" if several.count(task) > 1 else task, group)
        for (task, kind), group in groups.items()
    ]
    return EvaluationReport(results, tasks, command, seed, tuple(missing))


def _score(name: str, group: Sequence[AnsweredItem]) -> TaskScore:
    item = group[0].item
    ways: dict[str, list[ModelReply]] = {"": [answered.reply for answered in group]}
    for control in group[0].controls:
        ways[control] = [answered.controls[control] for answered in group]
    right = {way: [reply.right for reply in replies] for way, replies in ways.items()}
    by_way = {way: Accuracy(sum(column), len(column)) for way, column in right.items()}
    told: dict[str, dict[str, float]] = {}
    warning = ""
    if item.kind == "caption":
        references = [answered.item.references for answered in group]
        told = {
            w: caption_metrics.caption_scores([r.generated_text for r in each], references)
            for w, each in ways.items()
        }
    else:
        warning = control_warning(
            item.task, right[""], {w: column for w, column in right.items() if w}
        )
    chance = generated = None
    if item.kind == "choice":
        chance = statistics.mean(1 / len(answered.item.choices) for answered in group)
        generated = Accuracy(sum(answered.reply.generated_right for answered in group), len(group))
    return TaskScore(
        name=name,
        kind=item.kind,
        accuracy=by_way.pop(""),
        chance=chance,
        generated=generated,
        controls=by_way,
        captions=told,
        tokens=statistics.median(answered.reply.tokens for answered in group),
        seconds=statistics.median(answered.reply.seconds for answered in group),
        warning=warning,
    )


def report_table(report: EvaluationReport) -> RenderableType:
    """The figures for people, with what must be said about them underneath."""
    results = report.results
    header = ["task", "right", "95%", "chance", "as text", *results.controls]
    grid = Table(*header, "of", "tokens", "s", box=None, pad_edge=False)
    for column in grid.columns[1:]:
        column.justify = "right"
    for task in report.tasks:
        grid.add_row(*_cells(task, results.controls))
    if (mean := report.mean()) is not None:
        rest = [_percent(report.mean(control) or 0) for control in results.controls]
        grid.add_row(
            "mean of multiple choice",
            *(_percent(mean), "", _percent(report.chance), "", *rest, "", "", ""),
            style="bold",
        )
    return Group(grid, *map(Text, notes(report)))


def notes(report: EvaluationReport) -> list[str]:
    """What must be said beside the figures: scores that prove nothing, videos left out."""
    found = [f"{task.name} {task.warning}" for task in report.tasks if task.warning]
    for what, names in (("missing", report.missing), ("unreadable", report.results.unreadable)):
        if names:
            videos = "video" if len(names) == 1 else "videos"
            found.append(f"left out, {len(names)} {videos} {what}: {names[0]}, ..."[:300])
    return found


def _cells(task: TaskScore, controls: Sequence[str]) -> list[str]:
    last = [str(task.accuracy.of), f"{task.tokens:.0f}", f"{task.seconds:.2f}"]
    if task.kind == "caption":
        shown = [" ".join(f"{k} {v:.2f}" for k, v in task.captions[""].items()), "", "", ""]
        return [task.name, *shown, *(f"{task.captions[c]['CIDEr']:.2f}" for c in controls), *last]
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
    """The whole run as the text of a JSON file."""
    return json.dumps(report.to_json(), indent=2, ensure_ascii=False) + "\n"


def record_scores(bundle: Bundle, name: str, entry: Mapping[str, Any]) -> None:
    """Keep figures in the bundle's `scores.json` under `name`.

    The file is read again, for other evaluations may have recorded theirs while this one ran.
    """
    scores = json.dumps({**bundle.scores, name: entry}, indent=2)
    write_atomically(bundle.folder / SCORES, scores + "\n")


def _answer(answered: AnsweredItem) -> dict[str, Any]:
    item, reply = answered.item, answered.reply
    # The folder of a drawn video was temporary, and says nothing.
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
        likely = dict(zip(item.choices, (round(p, 5) for p in reply.probabilities), strict=True))
        fields |= {"said_right": reply.generated_right, "choices": likely}
    controls = {name: control.right for name, control in answered.controls.items()}
    return fields | ({"controls": controls} if controls else {})


def _rounded(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in scores.items()}


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"
