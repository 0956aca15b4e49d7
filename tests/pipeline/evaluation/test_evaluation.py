"""`reellama eval` with questions: asked, judged, set beside controls, and shown."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from reellama.pipeline.evaluation import caption_metrics
from reellama.pipeline.evaluation.controls import (
    CONTROLS,
    WITHHELD,
)
from reellama.pipeline.evaluation.html_report import misses_first, render_page
from reellama.pipeline.evaluation.items import EvalItem
from reellama.pipeline.evaluation.report import EvaluationReport, build_report
from reellama.pipeline.evaluation.runner import (
    AnsweredItem,
    EvaluationResults,
    ModelReply,
    evaluate,
)
from tests.pipeline.evaluation.conftest import CLIPS

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def report(questions: Path) -> EvaluationReport:
    """The report of `mini` on the questions."""
    from reellama.pipeline.evaluation.tasks.question_files import load_questions

    items = load_questions(questions).items
    return build_report(
        evaluate("mini", items, with_strips=True, n_threads=1), command="it", seed=7
    )


def test_a_bundle_that_sees_is_right_and_without_the_video_it_is_not(
    report: EvaluationReport,
) -> None:
    direction = report.tasks[0]
    assert direction.name == "moving direction"
    assert direction.chance == 0.25
    assert direction.generated and direction.generated.value >= 0.75
    assert direction.controls[WITHHELD].value < direction.accuracy.value


def test_each_kind_of_answer_is_judged_in_its_way(report: EvaluationReport) -> None:
    kinds = {task.name: task.kind for task in report.tasks}
    assert kinds == {"moving direction": "choice", "way": "open", "caption": "caption"}
    for each in report.results.answered:
        assert len(each.reply.probabilities) == len(each.item.choices)
        assert not each.reply.probabilities or math.isclose(sum(each.reply.probabilities), 1)
        assert each.reply.generated_text
    assert set(report.tasks[2].captions[""]) == {"BLEU-4", "CIDEr"}


def test_every_question_is_asked_in_every_control(report: EvaluationReport) -> None:
    assert all(tuple(each.controls) == CONTROLS for each in report.results.answered)
    assert set(report.tasks[1].controls) == set(CONTROLS)


def test_one_video_is_looked_at_once_for_all_its_questions(report: EvaluationReport) -> None:
    assert len(report.results.video_seconds) == CLIPS
    assert len(report.results.answered) == 3 * CLIPS


def test_the_page_needs_nothing_from_elsewhere(report: EvaluationReport) -> None:
    page = render_page(report)
    assert page.count("data:image/jpeg;base64,") >= CLIPS
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "http" not in page and "url(" not in page
    assert "Which way does it move?" in page and "light-dark(" in page


def test_what_videos_and_models_say_cannot_become_markup(report: EvaluationReport) -> None:
    item = EvalItem("<b>task", "<script>?", "<i>a", ("<i>a", "<i>b"), Path("<img>.mp4"))
    one = AnsweredItem(item, ModelReply(False, "<script>", False, (0.4, 0.6)), {})
    page = render_page(build_report(EvaluationResults("<u>", Path("<s>"), [one], [0.1])))
    assert not re.search(r"<(script|i|b|u|s|img)>", page)


def test_misses_come_first_and_the_surest_before_the_others() -> None:
    item = EvalItem("task", "?", "a", ("a", "b"), Path("v"))

    def answered(right: bool, said_right: bool, p: float) -> AnsweredItem:
        return AnsweredItem(item, ModelReply(right, "", said_right, (p, 1 - p)), {})

    fine, unsure = answered(True, True, 0.9), answered(False, False, 0.45)
    sure, said_otherwise = answered(False, False, 0.01), answered(True, False, 0.9)
    assert misses_first([fine, unsure, said_otherwise, sure]) == [
        sure,
        unsure,
        said_otherwise,
        fine,
    ]


def test_captions_are_scored_by_their_words() -> None:
    references = [["A red ball moves left."], ["Two dogs sleep on a mat.", "Dogs are sleeping."]]
    same = caption_metrics.caption_scores(
        ["a red ball moves left", "Two dogs sleep on a mat."], references
    )
    other = caption_metrics.caption_scores(
        ["Nothing to be seen here.", "A car drives by."], references
    )
    assert same["BLEU-4"] > 80 and same["CIDEr"] > 5
    assert other["BLEU-4"] < 10 and other["CIDEr"] < 0.5
