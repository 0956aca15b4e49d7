"""Options go by llama.cpp's names as well, where it has another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Result

Run = Callable[..., Result]
CONTEXT = ("-c", "--ctx-size", "--n-ctx")


@pytest.mark.parametrize("limit", ["-n", "--n-predict", "--max-tokens"])
def test_an_answer_takes_options_by_llama_cpps_names(
    limit: str, reellama: Run, square_video: Path, small_bundle: Path
) -> None:
    ask = ("ask", square_video, "What?", "--bundle", small_bundle, "--threads=1", "--json")
    said = reellama(*ask, "-c", "256", "-ngl", "0", "--temp", "0.5", "--seed", "1", limit, "2")
    own = ("--n-ctx=256", "--gpu-layers=0", "--temperature=0.5", "--seed=1", "--max-tokens=2")
    answers = [json.loads(result.out) for result in (said, reellama(*ask, *own))]
    assert answers[0]["answer"] == answers[1]["answer"]
    assert answers[0]["timings"]["n_generated"] == 2


@pytest.mark.parametrize("command", ["ask", "describe", "chat", "serve"])
def test_help_shows_both(command: str, reellama: Run) -> None:
    shown = reellama(command, "--help").out
    for names in ("-c, --n-ctx, --ctx-size", "-ngl, --gpu-layers"):
        assert names in shown
    if command != "serve":  # its clients say how they want to be answered
        assert "--temperature, --temp" in shown and "-n, --max-tokens, --n-predict" in shown


@pytest.mark.parametrize("name", CONTEXT)
def test_a_context_has_one_name_in_all_commands(name: str, reellama: Run, tiny_llama: Path) -> None:
    short = ("gguf", "fit", tiny_llama, "--vram", "1GiB", "--json")
    assert reellama(*short, name, "32").out == reellama(*short, "--ctx", "32").out
    for command in ("compare", "imatrix", "perplexity", "pick"):
        assert "-c, --ctx, --n-ctx, --ctx-size" in reellama("gguf", command, "--help").out
        refused = reellama("gguf", command, tiny_llama, name, "0")
        assert refused.status == 2 and "0 is not in the range" in refused.err
