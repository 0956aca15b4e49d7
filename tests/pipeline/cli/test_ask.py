"""`reellama ask` and `describe`: one answer on stdout, all else on stderr."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from reellama.gguf_tools.format.reader import read_gguf
from reellama.models.bundle import Bundle
from reellama.pipeline.chat.conversation import Video
from reellama.pipeline.chat.video_chat import VideoChat
from reellama.pipeline.cli.commands.ask import positions_needed
from reellama.pipeline.video.clip import Clip
from tests.conftest import Result

Run = Callable[..., Result]


@pytest.fixture
def quick(small_bundle: Path) -> list[str]:
    """Options that make answers quick."""
    return [f"--bundle={small_bundle}", "--threads=1", "--n-ctx=256", "--max-tokens=6"]


@pytest.fixture
def small(quick: list[str], endless: Path) -> list[str]:
    """Options for a quick answer of 6 tokens."""
    return [*quick, f"--grammar={endless}"]


def test_only_the_answer_stands_on_stdout(
    reellama: Run, square_video: Path, small: list[str]
) -> None:
    result = reellama("ask", square_video, "What happens?", *small)
    assert result.status == 0
    assert result.out.strip() != ""
    assert result.out.endswith("\n")
    assert result.err == "the answer was ended at 6 tokens (max_tokens)\n"


def test_json_has_the_answer_and_what_led_to_it(
    reellama: Run, square_video: Path, small: list[str]
) -> None:
    plain = reellama("ask", square_video, "What happens?", *small)
    result = reellama(
        "ask", square_video, "-", "--json", "--probs", *small, stdin="What happens?\n"
    )
    data = json.loads(result.out)
    assert data["answer"] == plain.out.strip()
    assert data["question"] == "What happens?"
    (video,) = data["videos"]
    assert video["path"] == str(square_video)
    assert video["duration"] == pytest.approx(2.0, abs=0.1)
    assert len(video["frames"]) == 8
    assert video["frames"] == sorted(video["frames"])
    assert "".join(token["text"] for token in data["tokens"]).strip() == data["answer"]
    assert data["stop_reason"] == "length"
    assert data["timings"]["n_generated"] == 6


def test_another_question_about_a_video_reads_its_own_words_alone(
    reellama: Run,
    square_video: Path,
    small: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("reellama.models.cache_folders.KV_CACHE_STATES", tmp_path / "prompts")

    def asked(question: str) -> tuple[str, int, int]:
        data = json.loads(reellama("ask", square_video, question, "--json", *small).out)
        n_read = data["timings"]["n_prompt"] - data["timings"]["n_reused"]
        return data["answer"], n_read, data["videos"][0]["soft_tokens"]

    answer, n_read, n_soft_tokens = asked("What happens?")
    assert n_read > n_soft_tokens > 0
    again, n_read, _ = asked("What happens?")
    assert again == answer and n_read < n_soft_tokens
    _, n_read, _ = asked("What happens to it now?")
    assert n_read < n_soft_tokens


def test_describe_asks_what_the_bundle_says(
    reellama: Run, square_video: Path, small: list[str]
) -> None:
    data = json.loads(reellama("describe", square_video, "--json", *small).out)
    assert data["question"] == "Describe the video."


def test_timings_are_a_table_on_stderr(reellama: Run, square_video: Path, small: list[str]) -> None:
    result = reellama("ask", square_video, "What happens?", "--timings", *small)
    stages = [line.split("  ")[0] for line in result.err.splitlines()]
    for stage in ("read", "tower", "projector", "prefill", "first token", "peak memory"):
        assert stage in stages
    assert "6 tokens, " in result.err
    assert "tokens/s" in result.err
    assert "first token" not in result.out


def test_without_colour_probs_are_a_table_beside_the_answer(
    reellama: Run, square_video: Path, small: list[str]
) -> None:
    result = reellama("ask", square_video, "What happens?", "--probs", *small)
    assert "\x1b" not in result.out + result.err
    assert "instead of it" in result.err
    assert result.err.count("%") >= 6


def test_more_frames_than_the_file_has_is_no_error_but_is_said(
    reellama: Run, square_video: Path, small: list[str]
) -> None:
    result = reellama("ask", square_video, "What?", "--frames", "60", "--json", *small)
    assert result.status == 0
    assert len(json.loads(result.out)["videos"][0]["frames"]) == 24
    assert "60" in result.err
    assert "24" in result.err


def test_start_and_end_are_times_as_people_write_them(
    reellama: Run, square_video: Path, small: list[str]
) -> None:
    result = reellama("ask", square_video, "What?", "--json", "--start=0:01", "--end=1.5", *small)
    times = json.loads(result.out)["videos"][0]["frames"]
    assert 1.0 <= times[0] <= times[-1] < 1.5


def test_a_grammar_and_a_schema_bind_the_answer(
    reellama: Run, square_video: Path, quick: list[str], tmp_path: Path
) -> None:
    (tmp_path / "yes.gbnf").write_text('root ::= "yes" | "no"')
    answer = reellama("ask", square_video, "A dog?", "--grammar", tmp_path / "yes.gbnf", *quick)
    assert answer.out.strip() in ("yes", "no")
    (tmp_path / "schema.json").write_text('{"enum": [1, 2]}')
    answer = reellama("ask", square_video, "?", "--json-schema", tmp_path / "schema.json", *quick)
    assert json.loads(answer.out) in (1, 2)


def test_a_stop_string_ends_the_answer_before_it(
    reellama: Run, square_video: Path, small: list[str]
) -> None:
    result = reellama(
        "ask", square_video, "What happens?", *small, "--stop=tock", "--max-tokens=20"
    )
    assert (result.out, result.err) == ("tick\n", "")


def test_a_system_prompt_of_ones_own_replaces_the_bundles(
    reellama: Run, square_video: Path, small: list[str]
) -> None:
    def prompt_size(*options: str) -> int:
        result = reellama("ask", square_video, "What?", "--json", *options, *small)
        return json.loads(result.out)["timings"]["n_prompt"]

    longer = "You are a pirate who watches films on a small island and speaks of nothing else."
    assert prompt_size(f"--system={longer}") > prompt_size()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["ask", "video.mp4"], "Missing argument"),
        (["ask", "video.mp4", "What?", "--frames", "0"], "--frames"),
        (["ask", "video.mp4", "What?", "--frames", "many"], "--frames"),
        (["ask", "video.mp4", "What?", "--start", "noon"], "'noon' is not a time"),
        (["ask", "video.mp4", "What?", "--sampling", "random"], "uniform, fps, keyframes, scenes"),
        (["ask", "video.mp4", "What?", "--gpu-layers", "lots"], "auto"),
        (["ask", "video.mp4", "What?", "--top-p", "2"], "--top-p"),
        (["aks", "video.mp4", "What?"], "Did you mean 'ask'?"),
        (["ask", "video.mp4", "What?", "--tempertaure", "1"], "--temperature"),
    ],
)
def test_wrong_arguments_end_with_status_2(
    reellama: Run, arguments: list[str], reason: str
) -> None:
    result = reellama(*arguments)
    assert result.status == 2
    assert result.out == ""
    assert reason in result.err


@pytest.mark.parametrize("question", ["What happens?", "\U0001f98a" * 50, "word " * 300])
def test_the_context_holds_a_question_and_its_answer_and_little_else(question: str) -> None:
    bundle = Bundle.load()
    llm = read_gguf(bundle.llm_path())
    n_ctx = positions_needed(bundle, llm, 2, (question, bundle.system), 256)
    with VideoChat(cache=None, n_ctx=n_ctx, n_threads=1) as video_chat:
        soft = np.zeros((bundle.tokens, bundle.n_embd), np.float32)
        clip = Clip([np.zeros((2, 2, 3), np.uint8)], np.zeros(1), 0.0, Path("clip.mp4"))
        video_chat.conversation.videos = [Video(clip.path, [soft], clip)] * 2
        size = video_chat.engine.count(video_chat.conversation.prompt(question))
    assert size + 256 <= n_ctx < size + 1000 + len(question.encode())
    assert positions_needed(bundle, llm, 1, (question,), 256) <= n_ctx


def test_json_of_several_descriptions_is_an_object_each_as_help_says(
    reellama: Callable[..., Result], square_video: Path, small_bundle: Path
) -> None:
    small = ("--bundle", small_bundle, "--threads=1", "--n-ctx=256", "--max-tokens=2")
    rest = reellama("describe", square_video, square_video, "--json", *small).out
    bundles = []
    while rest:
        found, end = json.JSONDecoder().raw_decode(rest)
        bundles.append(found["bundle"])
        rest = rest[end:].lstrip()
    assert bundles == ["small", "small"]
    assert "A JSON object for each video" in reellama("describe", "--help").out
