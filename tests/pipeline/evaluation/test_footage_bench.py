"""`reellama eval --bench`: real photographs with captions, asked in every way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from reellama.models.bundle import Bundle
from reellama.pipeline.chat.video_chat import VideoChat
from reellama.pipeline.evaluation import runner
from reellama.pipeline.evaluation.answer_matching import (
    choice_prefix_probabilities,
    first_mentioned,
)
from reellama.pipeline.evaluation.captioned_clips import read_captioned
from reellama.pipeline.evaluation.controls import OTHER, WITHHELD
from reellama.pipeline.evaluation.footage_bench import FOOTAGE_TASKS
from reellama.pipeline.evaluation.items import EvalItem
from reellama.pipeline.evaluation.runner import ask_of_clips
from reellama.pipeline.llm.engine import Engine, Text
from tests.conftest import Result
from tests.helpers.forced_sampling import ROUNDING

pytestmark = pytest.mark.numeric

Run = Callable[..., Result]
SHORT = 6  # tokens
FEW = ("--threads", "1", "--frames", "1", "--clips", "2")


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle that was not trained never comes to an end."""
    monkeypatch.setattr(runner, "MAX_TOKENS", SHORT)


def test_all_tasks_are_asked_shown_and_kept(
    reellama: Run, captioned: Path, small_bundle: Path, tmp_path: Path
) -> None:
    bundle = shutil.copytree(small_bundle, tmp_path / "bundle")
    file, plot = tmp_path / "found.json", tmp_path / "sure"
    result = reellama(
        *("eval", bundle, "--bench", "all", "--data", captioned, "--train", captioned, *FEW),
        *("--json", file, "--record", "footage", "--plot", plot, "--seed", "1"),
    )
    assert result.status == 0, result.err
    found = json.loads(file.read_text())
    assert list(found["tasks"]) == list(FOOTAGE_TASKS)
    for name in ("captions", "yes-no", "subject-kind", "motion"):
        rows = found["tasks"][name]["rows"]
        assert list(rows)[:3] == ["model", WITHHELD, OTHER]
        for row in rows.values():
            for figure in row.values():
                low, high = figure["95%"]
                assert figure["value"] is None or low <= figure["value"] <= high
    captions = found["tasks"]["captions"]["rows"]
    # The clips that baselines know are those that are asked about: the nearest is the same one.
    best, same = captions["nearest neighbour"], captions["same sentence for all"]
    assert best["CIDEr"]["value"] > same["CIDEr"]["value"]
    assert best["CIDEr"]["value"] > captions["model"]["CIDEr"]["value"]
    assert len(found["tasks"]["yes-no"]["answers"]) == 4
    assert "consensus of 60 neighbours" in result.out and "median rank" in result.out
    assert plot.with_name("sure.png").read_bytes()[:4] == b"\x89PNG"
    kept = Bundle.load(bundle).scores["footage"]
    assert kept["tasks"]["search"]["rows"] == found["tasks"]["search"]["rows"]
    assert "--bench all" in kept["command"] and "--seed 1" in kept["command"]


def test_one_task_is_asked_without_controls(
    reellama: Run, captioned: Path, small_bundle: Path
) -> None:
    options = ("--data", captioned, "--no-controls", "--json", "-", *FEW)
    result = reellama("eval", small_bundle, "--bench", "subject-kind", *options)
    assert result.status == 0, result.err
    [task] = json.loads(result.out)["tasks"].values()
    assert "model" in task["rows"] and WITHHELD not in task["rows"]
    assert len(task["rows"]) == 2  # and the usual kind for all


@pytest.mark.parametrize(
    "arguments",
    [
        ("--bench", "captions"),
        ("--bench", "juggling", "--data", "x.jsonl"),
        ("--bench", "captions", "--data", "x.jsonl", "--benchmark"),
        ("--bench", "captions", "--data", "x.jsonl", "--plot", "x"),
        ("--train", "x.jsonl", "--data", "x.jsonl"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    reellama: Run, arguments: tuple[str, ...]
) -> None:
    assert reellama("eval", "mini", *arguments).status == 2


def test_another_clip_is_the_one_before_and_no_video_is_none(
    captioned: Path, small_bundle: Path
) -> None:
    videos = [clip.video for clip in read_captioned(captioned)[:6:2]]
    items = [EvalItem("t", "What is this?", "cat", (), video) for video in videos]
    with VideoChat(bundle=small_bundle, frames=1, n_threads=1) as video_chat:
        answered, unreadable = ask_of_clips(video_chat, items)
        video_chat.videos.clear()
        video_chat.conversation.clear()
        alone = video_chat.ask("What is this?", max_tokens=SHORT)
    assert unreadable == []
    said = [each.reply.generated_text for each in answered]
    assert [each.controls[OTHER].generated_text for each in answered] == [said[-1], *said[:-1]]
    assert [each.controls[WITHHELD].generated_text for each in answered] == [alone] * 3


def test_clips_that_cannot_be_read_are_named_and_the_others_asked(
    captioned: Path, small_bundle: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    videos = [clip.video for clip in read_captioned(captioned)[:2]]
    items = [EvalItem("t", "What is this?", "cat", (), each) for each in (*videos, broken)]
    with VideoChat(bundle=small_bundle, frames=1, n_threads=1) as video_chat:
        answered, [complaint] = ask_of_clips(video_chat, items)
    assert [each.item.video for each in answered] == videos
    assert "broken.png" in complaint
    assert all(set(each.controls) == {OTHER, WITHHELD} for each in answered)


def test_an_answer_s_opening_counts_whatever_follows(engine: Engine) -> None:
    """After "Yes or no? No" the engine would go on; both spellings of a word are one answer."""
    prompt = [Text("Q: Is water dry? Answer yes or no.\nA:")]
    found = choice_prefix_probabilities(engine, prompt, ["yes", "no"])
    assert found.sum() == pytest.approx(1) and (found > 0).all()
    for choices, same in ((["Yes", "No"], found), (["no", "yes"], found[::-1])):
        again = choice_prefix_probabilities(engine, prompt, choices)
        np.testing.assert_allclose(np.log(again), np.log(same), atol=ROUNDING)


@pytest.mark.parametrize(
    ("said", "choice"),
    [
        ("Yes.", 0),
        ("No, there is no dog. Yes.", 1),
        ("There is none, no.", 1),
        ("I know not.", None),
    ],
)
def test_the_choice_that_is_named_first_is_the_answer(said: str, choice: int | None) -> None:
    assert first_mentioned(said, ["yes", "no"]) == choice
