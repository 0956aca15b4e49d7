"""Figures on real footage: a table a task, a row for the model, each control and baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from reellama.pipeline.evaluation.bootstrap import BootstrapEstimate
from reellama.pipeline.evaluation.calibration import ReliabilityBin
from reellama.pipeline.evaluation.runner import AnsweredItem

MODEL = "model"  # the row of what is evaluated, with all that it needs
CHANCE = "chance"


@dataclass(frozen=True)
class FootageScore:
    """One task.

    Attributes:
        of: what was asked, in words: "200 clips".
        rows: who answered (`MODEL`, a control, a baseline) -> measure -> figure.
        notes: what must be said beside the figures, such as clips left out.
        reliability: of yes/no questions, the model's.
    """

    name: str
    of: str
    rows: Mapping[str, Mapping[str, BootstrapEstimate]]
    notes: Sequence[str] = ()
    answered: Sequence[AnsweredItem] = ()
    reliability: Sequence[ReliabilityBin] = ()

    @property
    def measures(self) -> list[str]:
        """All measures, in the order in which they come."""
        return list(dict.fromkeys(name for row in self.rows.values() for name in row))

    def figures(self) -> dict[str, Any]:
        """All but the single answers, for `scores.json`."""
        rows = {
            name: {measure: figure.to_json() for measure, figure in row.items()}
            for name, row in self.rows.items()
        }
        fields: dict[str, Any] = {"of": self.of, "rows": rows}
        if self.reliability:
            fields["reliability"] = [vars(each) for each in self.reliability]
        return fields | ({"notes": list(self.notes)} if self.notes else {})

    def to_json(self) -> dict[str, Any]:
        """The figures with the answers."""
        return self.figures() | {"answers": [_answer(each) for each in self.answered]}


def footage_table(scores: Sequence[FootageScore]) -> RenderableType:
    """The tables for people."""
    parts: list[RenderableType] = []
    for score in scores:
        grid = Table(f"{score.name}, {score.of}", *score.measures, box=None, pad_edge=False)
        for column in grid.columns[1:]:
            column.justify = "right"
        for who, row in score.rows.items():
            cells = [str(row[measure]) if measure in row else "" for measure in score.measures]
            grid.add_row(who, *cells, style="bold" if who == MODEL else None)
        parts += [grid, *map(Text, score.notes), Text()]
    return Group(*parts[:-1])


def _answer(answered: AnsweredItem) -> dict[str, Any]:
    item, reply = answered.item, answered.reply
    fields: dict[str, Any] = {
        "video": item.video.name,
        "question": item.question,
        "answer": list(item.references) or item.answer,
        "said": reply.generated_text,
    }
    if item.choices:
        likely = zip(item.choices, reply.probabilities, strict=True)
        fields["choices"] = {choice: round(p, 5) for choice, p in likely}
    return fields | {name: control.generated_text for name, control in answered.controls.items()}
