"""What is typed: help in groups, saved defaults, quiet and verbose, and what is missing."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import Result
from tests.helpers.terminal import REELLAMA, ROOT

Run = Callable[..., Result]


def test_help_shows_options_in_groups_and_those_that_matter_most_first(reellama: Run) -> None:
    shown = reellama("ask", "--help").out
    first, *groups = shown.split("\nOptions:\n")[1].split("\n\n")
    named = [line.split()[0] for line in first.splitlines() if line.startswith("  -")]
    assert named == ["--frames", "--start", "--end", "--bundle", "--json", "-h,"]
    titles = [group.splitlines()[0] for group in groups]
    assert titles == [
        "Which frames of a video are looked at:",
        "Which model answers, and how it is run:",
        "How an answer is generated:",
        "How much is said beside the answer:",
    ]


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (("ask", "VIDEO"), "QUESTION"),
        (("ask", "What happens?"), "VIDEO..."),
        (("ask", "https://example.com/a.mp4"), "QUESTION"),
        (("search", "VIDEO"), "TEXT"),
        (("search", "a dog"), "VIDEO..."),
    ],
)
def test_the_argument_that_is_missing_is_named(
    reellama: Run, tmp_path: Path, words: tuple[str, ...], missing: str
) -> None:
    (tmp_path / "clip.mp4").touch()
    result = reellama(*(tmp_path / "clip.mp4" if word == "VIDEO" else word for word in words))
    assert result.status == 2
    assert f"Missing argument '{missing}'" in result.err


@pytest.mark.parametrize("words", [("ask", "", "What?"), ("describe", ""), ("timeline", "")])
def test_an_empty_path_is_not_the_present_folder(reellama: Run, words: tuple[str, ...]) -> None:
    result = reellama(*words)
    assert result.status == 2
    assert "a path is empty" in result.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ask", "a.mp4", "What?", "--frames", "few"), "'few' is not a valid whole number"),
        (("ask", "a.mp4", "What?", "--top-p", "most"), "'most' is not a valid number"),
        (("gguf", "bench", "mini-llm", "-r", "x"), "'x' is not a valid whole number"),
        (("serve", "--port", "http"), "'http' is not a valid whole number"),
    ],
)
def test_a_number_that_is_none_is_called_so(
    reellama: Run, words: tuple[str, ...], said: str
) -> None:
    result = reellama(*words)
    assert result.status == 2
    assert said in result.err


def test_an_empty_question_is_not_called_an_empty_path(reellama: Run, square_video: Path) -> None:
    result = reellama("timeline", square_video, "--ask", "")
    assert result.status != 0
    assert "the question is empty" in result.err


def test_a_file_whose_name_begins_with_a_dash_is_told_how_to_be_called(
    reellama: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-x.mp4").touch()
    result = reellama("describe", "-x.mp4")
    assert result.status == 2
    assert "-x.mp4 is a file: call it ./-x.mp4" in result.err
    assert "No such option: -y" in reellama("describe", "-y.mp4").err


def test_a_file_that_may_not_be_read_is_no_wrong_argument(
    reellama: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # as click asks, of the user's own rights
    (tmp_path / "closed.mp4").touch()
    for command in (("describe",), ("timeline",), ("watch",), ("inspect",)):
        assert reellama(*command, tmp_path / "closed.mp4").status == 1


def test_the_help_of_no_command_shows_the_names_of_types(reellama: Run) -> None:
    for command in ("train", "serve", "search", "eval", "demo-video", "gguf convert", "timeline"):
        shown = reellama(*command.split(), "--help").out
        assert "Options:" in shown
        assert not re.search(r"<(int|str|float|path)", shown), command
    assert "{VIDEO...} {TEXT}" in reellama("search", "--help").out


@pytest.mark.parametrize(
    "words", [("ask", "Is it caf\udce9?"), ("ask", "What?", "--system", "caf\udce9")]
)
def test_bytes_that_are_not_utf_8_may_stand_in_a_text(
    reellama: Run, square_video: Path, small_bundle: Path, words: tuple[str, ...]
) -> None:
    command, *rest = words
    small = ("--threads=1", "--n-ctx=256", "--max-tokens=2", "--json")
    result = reellama(command, square_video, *rest, "--bundle", small_bundle, *small)
    assert result.status == 0
    assert json.loads(result.out)["question"] == rest[0].replace("\udce9", "\ufffd")


def test_notes_on_the_present_folder_name_it(
    reellama: Run, small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    small = ("--threads=1", "--n-ctx=256", "--max-tokens=2", "--frames=3")
    result = reellama("ask", ".", "What?", "--bundle", small_bundle, *small)
    assert result.status == 0
    notes = result.err.splitlines()
    assert ".: asked for 3 frames, the folder has 1" in notes
    assert not any(line.startswith(":") for line in notes)


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reellama: Run) -> Callable[[str], Path]:
    """Write the file of saved defaults; `reellama` is there because it names none."""

    def write(text: str) -> Path:
        path = tmp_path / "config.toml"
        path.write_text(text)
        monkeypatch.setenv("REELLAMA_CONFIG", str(path))
        return path

    return write


def test_saved_defaults_take_the_place_of_the_programs_own_and_what_is_typed_wins(
    config: Callable[[str], Path], reellama: Run, square_video: Path, small_bundle: Path
) -> None:
    config(f'bundle = "{small_bundle}"\nthreads = 1\nn-ctx = 256\n[ask]\nmax_tokens = 2\n')
    saved = reellama("ask", square_video, "What happens?", "--json")
    assert json.loads(saved.out)["bundle"] == "small"
    assert json.loads(saved.out)["timings"]["n_generated"] == 2
    typed = reellama("ask", square_video, "What happens?", "--json", "--max-tokens=1")
    assert json.loads(typed.out)["timings"]["n_generated"] == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("thread = 3", "no option is called 'thread'; did you mean threads?"),
        ('threads = "many"', "threads: "),
        ("[aks]\nthreads = 3", "no command is called 'aks'; did you mean ask?"),
        ("[ask]\nscenes = 3", "[ask]: no option is called 'scenes'"),
        ("[ask]\njson = 3", "json wants true or false"),
        ("[ask]\nsampling = 'often'", "sampling: "),
        ("threads 3", "not TOML"),
    ],
)
def test_a_line_of_the_file_that_makes_no_sense_is_named(
    config: Callable[[str], Path], reellama: Run, text: str, reason: str
) -> None:
    path = config(text)
    result = reellama("ask", "clip.mp4", "What?")
    assert result.status == 1
    (line,) = result.err.splitlines()
    assert line.startswith(f"reellama: {path}: ") and reason in line


def test_only_main_names_are_saved(config: Callable[[str], Path], reellama: Run) -> None:
    """What answers have as a context is not what perplexity is measured in chunks of."""
    config("n-ctx = 1\n[gguf.perplexity]\nctx = 8")
    refused = reellama("gguf", "perplexity", "no.gguf")
    assert "n-ctx: " in refused.err  # of `ask`
    config("n-ctx = 64\n[gguf.perplexity]\nn-ctx = 64")
    said = reellama("gguf", "perplexity", "no.gguf").err
    assert "[perplexity]: no option is called 'n-ctx'" in said
    config("n-ctx = 64\n[gguf.perplexity]\nctx = 64")
    assert "no.gguf" in reellama("gguf", "perplexity", "no.gguf").err


def test_a_file_of_defaults_that_is_named_and_not_there_is_said(
    reellama: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REELLAMA_CONFIG", str(tmp_path / "nofile.toml"))
    result = reellama("ask", "clip.mp4", "What?")
    assert (result.status, result.out) == (1, "")
    (line,) = result.err.splitlines()
    assert line.startswith(f"reellama: {tmp_path}/nofile.toml: there is no such file")


def test_quiet_leaves_notes_out_and_verbose_says_more(
    reellama: Run, square_video: Path, small_bundle: Path
) -> None:
    ask = ("ask", square_video, "What?", "--bundle", small_bundle, "--threads=1", "--max-tokens=1")
    assert "ended at 1 tokens" in reellama(*ask).err
    quiet = reellama(*ask, "--quiet")
    assert (quiet.status, quiet.err) == (0, "")
    said = reellama(*ask, "-v").err
    assert "frames at 0:00.1" in said and "tokens/s" in said and "LLM" in said
    assert reellama(*ask, "-q", "-v").status == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_options(shell: str) -> None:
    env = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    script = subprocess.run(
        [*REELLAMA, "--show-completion", shell], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert script.returncode == 0 and "_REELLAMA_COMPLETE" in script.stdout
    if shell != "bash":
        return
    env |= {"_REELLAMA_COMPLETE": "complete_bash", "COMP_WORDS": "reellama ti", "COMP_CWORD": "1"}
    offered = subprocess.run([*REELLAMA], cwd=ROOT, env=env, capture_output=True, text=True)
    assert offered.stdout.split() == ["timeline"]


def test_a_word_that_is_too_long_for_a_file_name_is_no_file(
    reellama: Run, square_video: Path
) -> None:
    result = reellama("ask", square_video, "What?", f"--foo={'a' * 300}")
    assert result.status == 2
    assert "No such option: --foo" in result.err
