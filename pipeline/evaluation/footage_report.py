"""Report scores on real footage: a table for each task, with the model, controls and baselines."""

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

MODEL = "model"  # the row of the evaluated model, without a control
CHANCE = "chance"


@dataclass(frozen=True)
class FootageScore:
    """The score of one task.

    Attributes:
        of: what was asked, such as "200 clips".
        rows: estimates by row (`MODEL`, a control, a baseline) and measure.
        notes: remarks for the user, such as clips left out.
        answered: the single questions with the answers.
        reliability: the model's reliability diagram, for yes/no questions.
    """

    name: str
    of: str
    rows: Mapping[str, Mapping[str, BootstrapEstimate]]
    notes: Sequence[str] = ()
    answered: Sequence[AnsweredItem] = ()
    reliability: Sequence[ReliabilityBin] = ()

    @property
    def measures(self) -> list[str]:
        """The names of all measures, in the order of the rows."""
        return list(dict.fromkeys(name for row in self.rows.values() for name in row))

    def figures(self) -> dict[str, Any]:
        """The score without single answers, for `scores.json`."""
        rows = {
            name: {measure: figure.to_json() for measure, figure in row.items()}
            for name, row in self.rows.items()
        }
        fields: dict[str, Any] = {"of": self.of, "rows": rows}
        if self.reliability:
            fields["reliability"] = [vars(bin_) for bin_ in self.reliability]
        return fields | ({"notes": list(self.notes)} if self.notes else {})

    def to_json(self) -> dict[str, Any]:
        """The score with single answers."""
        return self.figures() | {"answers": [_answer(answered) for answered in self.answered]}


def footage_table(scores: Sequence[FootageScore]) -> RenderableType:
    """The scores as tables for a terminal."""
    parts: list[RenderableType] = []
    for score in scores:
        grid = Table(f"{score.name}, {score.of}", *score.measures, box=None, pad_edge=False)
        for column in grid.columns[1:]:
            column.justify = "right"
        for name, row in score.rows.items():
            cells = [str(row[measure]) if measure in row else "" for measure in score.measures]
            grid.add_row(name, *cells, style="bold" if name == MODEL else None)
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
        probabilities = zip(item.choices, reply.probabilities, strict=True)
        fields["choices"] = {choice: round(p, 5) for choice, p in probabilities}
    return fields | {name: control.generated_text for name, control in answered.controls.items()}
