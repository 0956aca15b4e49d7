"""`reellama eval` with questions: asked, judged, set beside controls, and reported."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.bundle import Bundle
from reellama.models.synthetic.render import render, write_video
from reellama.models.synthetic.rendered_clips import RenderedClips, RenderedConfig
from reellama.pipeline.evaluation import ablations, caption_metrics
from reellama.pipeline.evaluation.ablations import (
    ABLATIONS,
    SHUFFLED,
    SINGLE,
    WITHHELD,
    is_significantly_lower,
    needs,
)
from reellama.pipeline.evaluation.answer_matching import contains, mentioned_choices, probabilities
from reellama.pipeline.evaluation.html_report import misses_first, write_page
from reellama.pipeline.evaluation.items import EvalItem
from reellama.pipeline.evaluation.report import EvaluationReport, build_report, record_scores
from reellama.pipeline.evaluation.runner import (
    AnsweredItem,
    EvaluationResults,
    ModelReply,
    evaluate,
)
from reellama.pipeline.evaluation.scoring import Accuracy
from reellama.pipeline.evaluation.tasks import synthetic_benchmark
from reellama.pipeline.llm.engine import Engine, Text
from reellama.pipeline.llm.token_probabilities import log_softmax
from reellama.pipeline.video.clip import read_frames
from tests.conftest import Result
from tests.helpers.forced_sampling import ROUNDING, saying

pytestmark = pytest.mark.numeric

Run = Callable[..., Result]
WAYS = ("moves left", "moves right", "moves up", "moves down")
CLIPS = 6
FEW = 2  # of them, where nothing is to be seen


def draw(folder: Path, count: int) -> Iterator[tuple[Path, str]]:
    """Videos of one shape each that moves, and the way that it moves."""
    clips = RenderedClips(RenderedConfig(("shapes",), (1.0,), p_two=0))
    for number in range(count):
        way = WAYS[number % len(WAYS)]
        scene = clips.clip("test", number, motion=way).scene
        path = folder / f"{number}.mp4"
        write_video(path, render(scene, np.linspace(0, scene.duration, 24, endpoint=False)), 12)
        yield path, way


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSONL file: of each video its direction, whether there is a video, and a description."""
    folder = tmp_path_factory.mktemp("questions")
    rows: list[dict] = []
    for path, way in draw(folder, CLIPS):
        ask = {"video": path.name, "question": "Which way does it move?"}
        rows.append({**ask, "answer": way, "choices": list(WAYS), "task": "moving direction"})
        rows.append({**ask, "answer": way.removeprefix("moves "), "task": "way"})
        rows.append({"video": path.name, "caption": [f"A shape {way}.", f"Something {way}."]})
    file = folder / "questions.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def few(questions: Path) -> Path:
    """The same for a few videos."""
    file = questions.with_name("few.jsonl")
    file.write_text("".join(questions.read_text().splitlines(keepends=True)[: 3 * FEW]))
    return file


@pytest.fixture(scope="module")
def found(questions: Path) -> EvaluationReport:
    """What `mini` says to them."""
    from reellama.pipeline.evaluation.tasks.question_files import load_questions

    items = load_questions(questions).items
    return build_report(
        evaluate("mini", items, with_strips=True, n_threads=1), command="it", seed=7
    )


def test_a_bundle_that_sees_is_right_and_without_the_video_it_is_not(
    found: EvaluationReport,
) -> None:
    direction = found.tasks[0]
    assert direction.name == "moving direction"
    assert direction.chance == 0.25
    assert direction.generated and direction.generated.value >= 0.75
    assert direction.controls[WITHHELD].value < direction.share.value


def test_each_kind_of_answer_is_judged_in_its_way(found: EvaluationReport) -> None:
    kinds = {task.name: task.kind for task in found.tasks}
    assert kinds == {"moving direction": "choice", "way": "open", "caption": "caption"}
    for each in found.results.answered:
        assert len(each.reply.probabilities) == len(each.item.choices)
        assert not each.reply.probabilities or math.isclose(sum(each.reply.probabilities), 1)
        assert each.reply.generated_text
    assert set(found.tasks[2].captions[""]) == {"BLEU-4", "CIDEr"}


def test_every_question_is_asked_in_every_control(found: EvaluationReport) -> None:
    assert all(tuple(each.controls) == ABLATIONS for each in found.results.answered)
    assert set(found.tasks[1].controls) == set(ABLATIONS)


def test_one_video_is_looked_at_once_for_all_its_questions(found: EvaluationReport) -> None:
    assert len(found.results.video_seconds) == CLIPS
    assert len(found.results.answered) == 3 * CLIPS


def test_the_page_needs_nothing_from_elsewhere(found: EvaluationReport) -> None:
    page = write_page(found)
    assert page.count("data:image/jpeg;base64,") >= CLIPS
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "http" not in page and "url(" not in page
    assert "Which way does it move?" in page and "light-dark(" in page


def test_what_videos_and_models_say_cannot_become_markup(found: EvaluationReport) -> None:
    item = EvalItem("<b>task", "<script>?", "<i>a", ("<i>a", "<i>b"), Path("<img>.mp4"))
    one = AnsweredItem(item, ModelReply(False, "<script>", False, (0.4, 0.6)), {})
    page = write_page(build_report(EvaluationResults("<u>", Path("<s>"), [one], [0.1])))
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


def test_probabilities_of_choices_are_those_of_their_tokens(tiny_llama: Path) -> None:
    """Each choice and the end of the turn, scored once more with the whole text read anew.

    All in float32, where reading a text at once or in parts makes next to no difference.
    """
    choices = ["left", "to the upper right", "I do not know"]
    prompt, scores = [Text("Where?")], []
    exact: dict[str, Any] = {"type_k": "f32", "type_v": "f32", "flash_attn": "off"}
    with Engine(tiny_llama, n_ctx=256, n_threads=1, **exact) as engine:
        found = probabilities(engine, prompt, choices)
        for choice in choices:
            ids = [*engine.tokenizer.encode(choice), engine.tokenizer.eos]
            n = engine.count(prompt)
            end = Text("</s>", special=True)
            logits = engine.logits_all([*prompt, Text(choice), end])[n - 1 : -1]
            scores.append(log_softmax(logits)[np.arange(len(ids)), np.array(ids)].sum())
    expected = np.exp(np.array(scores) - max(scores))
    assert found == pytest.approx(expected / expected.sum(), rel=1e-3)


def test_the_prompt_is_read_once_for_all_choices(engine: Engine) -> None:
    prompt = [Text("One two three four five six seven eight nine ten")]
    probabilities(engine, prompt, ["eleven", "twelve and more", "red"])
    assert engine.last.n_read == engine.count(prompt)
    assert engine.prefill(prompt).n_reused >= engine.count(prompt) - 1


def test_an_engine_answers_the_same_after_scoring(engine: Engine) -> None:
    prompt = [Text("The capital of France is")]

    def say() -> np.ndarray:
        """How likely it found each token of what it is made to say."""
        return np.log([token.p for token in engine.generate(prompt, saying(" in Italy."))])

    before = say()
    engine.logprobs(prompt, [[5, 6, 7], [8]])
    np.testing.assert_allclose(say(), before, atol=ROUNDING)


def test_a_continuation_of_nothing_is_refused(engine: Engine) -> None:
    with pytest.raises(ReellamaError, match="no tokens"):
        engine.logprobs([Text("a")], [[1], []])


@pytest.mark.parametrize(
    ("said", "choices"),
    [
        ("Up and right.", [1]),
        ("It moves right", [0]),
        ("right or left", [0, 2]),
        ("copyright", []),
        ("There are 3.", [3]),
        ("", []),
    ],
)
def test_a_text_names_choices_as_whole_words(said: str, choices: list[int]) -> None:
    assert mentioned_choices(said, ["right", "up and right", "left", "three"]) == choices


@given(choices=st.lists(st.text("abc ", min_size=1).filter(str.strip), min_size=1, unique=True))
def test_a_choice_said_as_it_is_is_named(choices: list[str]) -> None:
    for i, choice in enumerate(choices):
        assert i in mentioned_choices(f"It is {choice}!", choices)


def test_an_open_answer_is_right_when_its_words_are_said_together() -> None:
    assert contains("I see a Red  Apple, I think.", "the red apple")
    assert not contains("A red and green apple", "red apple")
    assert not contains("A hotdog", "dog")
    assert not contains("anything", "?")


def test_what_a_control_takes_away_is_what_some_tasks_need() -> None:
    assert all(needs(WITHHELD, task) for task in ("object naming", "speed", "whatever"))
    assert needs(SHUFFLED, "action order") and needs(SINGLE, "action_order")
    assert not needs(SHUFFLED, "object naming") and not needs(SINGLE, "count")


def test_controls_are_made_of_the_same_frames(
    square_video: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In bfloat16 a frame alone and the same among others may differ in the third digit.
    monkeypatch.setattr("reellama.models.precision.multiplies_bfloat16", lambda: False)
    bundle = Bundle.load(small_bundle)
    clip = read_frames(square_video, frames=5)
    views = ablations.ablated_soft_tokens(bundle, clip, ABLATIONS)
    assert views.pop(WITHHELD) is None
    seen = {name: np.asarray(view) for name, view in views.items()}
    assert np.allclose(seen[""], bundle.encode(clip.frames, clip.times), atol=1e-4)
    middle = bundle.encode([clip.frames[2]], clip.times[2:3])
    assert np.allclose(seen[SINGLE], middle, atol=1e-4)
    assert not np.allclose(seen[SHUFFLED], seen[""], atol=1e-4)
    again = ablations.ablated_soft_tokens(bundle, clip, [SHUFFLED])[SHUFFLED]
    assert np.array_equal(seen[SHUFFLED], np.asarray(again))


def test_a_fall_is_one_that_chance_seldom_brings() -> None:
    assert is_significantly_lower([True] * 10, [False] * 10)
    assert not is_significantly_lower([True] * 3, [False] * 3)
    assert not is_significantly_lower([True, False] * 10, [False, True] * 10)
    assert not is_significantly_lower([], [])


def test_a_score_that_does_not_fall_is_said_to_prove_nothing() -> None:
    right = [True] * 18 + [False] * 2
    blind = [False] * 18 + [True] * 2
    assert ablations.ablation_warning(
        "moving direction", right, {WITHHELD: blind, SHUFFLED: right}
    ) == ("proves nothing: 90% are right, and 90% with frames in shuffled order")
    assert (
        ablations.ablation_warning("object naming", right, {WITHHELD: blind, SHUFFLED: right}) == ""
    )
    few = ablations.ablation_warning("speed", [True, True], {SHUFFLED: [True, False]})
    assert few.endswith("; 2 questions are too few to tell")


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


def test_figures_go_to_json_to_a_page_and_into_the_bundle(
    reellama: Run, few: Path, small_bundle: Path, tmp_path: Path
) -> None:
    file, page = tmp_path / "found.json", tmp_path / "found.html"
    bundle = shutil.copytree(small_bundle, tmp_path / "bundle")
    result = reellama(
        *("eval", bundle, "--data", few, "--task", "moving direction", "--threads=1"),
        *("--json", file, "--html", page, "--record", "ways", "--frames", "2"),
    )
    assert result.status == 0, result.err
    assert "moving direction" in result.out and "proves nothing" in result.out
    data = json.loads(file.read_text())
    task = data["tasks"]["moving direction"]
    assert task["accuracy"]["of"] == task["questions"] == len(data["answers"]) == FEW
    assert set(task["controls"]) == set(ABLATIONS) and task["chance"] == 0.25
    assert "<!doctype html>" in page.read_text()
    kept = Bundle.load(bundle).scores["ways"]
    assert kept["tasks"]["moving direction"] == task
    assert "--task 'moving direction' --frames 2" in kept["command"]


def test_evaluations_that_run_side_by_side_keep_each_other_s_figures(
    small_bundle: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(small_bundle, tmp_path / "bundle")
    one, other = Bundle.load(folder), Bundle.load(folder)
    record_scores(one, "first", {"right": 1})
    record_scores(other, "second", {"right": 2})
    kept = Bundle.load(folder).scores
    assert (kept["first"], kept["second"]) == ({"right": 1}, {"right": 2})


def test_the_drawn_benchmark_is_asked(
    reellama: Run, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        synthetic_benchmark.BENCHMARK_SPLITS,
        "new-clips",
        synthetic_benchmark.BenchmarkSplit(("shapes",), "known"),
    )
    options = (
        "--clips",
        "2",
        "--task",
        "count",
        "--task",
        "camera",
        "--frames",
        "2",
        "--threads",
        "1",
    )
    result = reellama("eval", small_bundle, "--benchmark", *options, "--no-controls", "--json", "-")
    assert result.status == 0, result.err
    data = json.loads(result.out)
    assert set(data["tasks"]) == {"count", "camera"} and data["seed"] == 0
    assert len(data["answers"]) == 4
    assert reellama("eval", small_bundle, "--benchmark", "--task", "juggling").status == 1


def test_without_controls_there_are_none(reellama: Run, few: Path, small_bundle: Path) -> None:
    options = ("--no-controls", "--json", "-", "--frames", "1", "--threads", "1")
    result = reellama("eval", small_bundle, "--data", few, "--task", "way", *options)
    assert result.status == 0, result.err
    assert json.loads(result.out)["tasks"]["way"]["controls"] == {}


def test_quantizations_are_asked_the_same(
    reellama: Run, few: Path, small_bundle: Path, smollm2: Path, tmp_path: Path
) -> None:
    from reellama.gguf_tools.quantization.quantize import quantize

    folder = tmp_path / "ggufs"
    quantize(smollm2, "Q4_0", folder / "small-Q4_0.gguf", n_threads=1)
    (folder / "small-Q4_1.gguf").symlink_to(smollm2)
    options = ("--quantizations", folder, "--plot", tmp_path / "plot", "--json", "-")
    asked = ("--data", few, "--task", "moving direction", "--threads=1")
    bundle = shutil.copytree(small_bundle, tmp_path / "bundle")
    result = reellama("eval", bundle, *asked, *options, "--record", "types")
    assert result.status == 0, result.err
    rows = json.loads(result.out)["rows"]
    assert Bundle.load(bundle).scores["types"]["rows"] == rows
    assert [row["type"] for row in rows] == ["Q4_1", "Q4_0"]
    assert rows[0]["bits_per_weight"] > rows[1]["bits_per_weight"]
    assert all(row["accuracy"]["of"] == FEW for row in rows)
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
    assert "Q4_0" in (tmp_path / "plot.svg").read_text()


def test_seven_quantizations_and_all_tasks_can_be_read_in_80_columns() -> None:
    from reellama.pipeline.evaluation.quantization_sweep import SWEEP_TYPES, SweepRow, tables

    tasks = {name: Accuracy(number, 20) for number, name in enumerate(synthetic_benchmark.TASKS)}
    all_tasks = Accuracy(sum(share.right for share in tasks.values()), 20 * len(tasks))
    rows = [
        SweepRow(Path(f"{name}.gguf"), name, 10**8, 4.5, all_tasks, all_tasks, tasks)
        for name in (*SWEEP_TYPES, "IQ3_XXS")
    ]
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(tables(rows))
    lines = console.export_text().splitlines()
    assert lines[0].split() == ["type", "bits", "MB", "right", "95%", "as", "text"]
    heads = [line.split()[1:] for line in lines if line.startswith("task")]
    assert heads == [list(SWEEP_TYPES), ["IQ3_XXS"]]
    [seven, one] = [line.split() for line in lines if line.startswith("moving direction")]
    share = f"{tasks['moving direction'].value:.0%}"
    assert (seven[2:], one[2:]) == ([share] * 7, [share])


@pytest.mark.parametrize(
    "arguments",
    [
        ("--data", "x.jsonl", "--benchmark"),
        ("--html", "page.html"),
        ("--data", "x.jsonl", "--quantize"),
        ("--benchmark", "--split", "old"),
        ("--benchmark", "--plot", "x"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    reellama: Run, arguments: tuple[str, ...]
) -> None:
    assert reellama("eval", "mini", *arguments).status == 2
