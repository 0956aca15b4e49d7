"""Report a run as one self-contained HTML page, with scores, clips and answers."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, Template

from reellama.pipeline.evaluation.report import EvaluationReport, notes
from reellama.pipeline.evaluation.runner import AnsweredItem
from reellama.pipeline.video.timestamps import format_time

MAX_SHOWN = 24  # clips of a task, misses first


def render_page(report: EvaluationReport, max_shown: int = MAX_SHOWN) -> str:
    """The HTML of the page, with at most `max_shown` clips of each task."""
    groups = _groups(report, max_shown)
    return _template().render(report=report, notes=notes(report), groups=groups)


def misses_first(answered: Sequence[AnsweredItem]) -> list[AnsweredItem]:
    """Sort answers: wrong by probabilities, then wrong as texts, then right, surest first."""

    def sort_key(item: AnsweredItem) -> tuple[bool, bool, float]:
        reply = item.reply
        return reply.right, reply.generated_right, -max(reply.probabilities, default=0.0)

    return sorted(answered, key=sort_key)


def _groups(report: EvaluationReport, max_shown: int) -> list[tuple[str, int, list[AnsweredItem]]]:
    """For each task its name, the number of its questions, and the answers to show."""
    groups: dict[str, list[AnsweredItem]] = {}
    for answered in report.results.answered:
        groups.setdefault(answered.item.task, []).append(answered)
    return [(task, len(group), misses_first(group)[:max_shown]) for task, group in groups.items()]


def _data_url(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _verdict(answered: AnsweredItem) -> str:
    """The verdict on an answer in words, as colour alone is not accessible."""
    if answered.item.references:
        return ""
    return " (right)" if answered.reply.generated_right else " (wrong)"


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "data_url": _data_url,
        "clock": format_time,
        "verdict": _verdict,
        "percent": lambda share: f"{100 * share:.1f}%",
    }
    return environment.from_string(
        Path(__file__).with_name("html_report.html").read_text(encoding="utf-8")
    )
