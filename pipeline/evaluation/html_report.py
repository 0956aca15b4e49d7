"""A run as one HTML page that needs nothing else: figures, and clips with what was said of them."""

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


def render_page(report: EvaluationReport, shown: int = MAX_SHOWN) -> str:
    """The page's text; at most `shown` clips of a task."""
    return _template().render(report=report, notes=notes(report), groups=_groups(report, shown))


def misses_first(answered: Sequence[AnsweredItem]) -> list[AnsweredItem]:
    """Wrong by its choices, then wrong as a text, then the rest, each the surest first."""

    def order(each: AnsweredItem) -> tuple[bool, bool, float]:
        reply = each.reply
        return reply.right, reply.generated_right, -max(reply.probabilities, default=0.0)

    return sorted(answered, key=order)


def _groups(report: EvaluationReport, shown: int) -> list[tuple[str, int, list[AnsweredItem]]]:
    """Tasks with how many questions each has, and those that are shown."""
    groups: dict[str, list[AnsweredItem]] = {}
    for answered in report.results.answered:
        groups.setdefault(answered.item.task, []).append(answered)
    return [(task, len(each), misses_first(each)[:shown]) for task, each in groups.items()]


def _data_url(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _verdict(answered: AnsweredItem) -> str:
    """The verdict on an answer in words, so that colour does not say it alone."""
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
