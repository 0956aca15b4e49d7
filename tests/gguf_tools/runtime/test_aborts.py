"""What llama.cpp ends a process for is refused before, or becomes one line and status 1."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from reellama.gguf_tools.errors import GGUFError
from reellama.gguf_tools.runtime.backend import load_model
from tests.helpers import tiny_model
from tests.helpers.tiny_model import TOKENS

EXPERTS, USED = "llama.expert_count", "llama.expert_used_count"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "two equal tokens": (
        {"tokens": [*TOKENS[:10], TOKENS[9], *TOKENS[11:]]},
        r"tokens 9 and 10 are the same, '<0x06>'",
    ),
    "an empty token and its stand-in": (
        {"tokens": [*TOKENS[:9], "[EMPTY_10]", "", *TOKENS[11:]]},
        r"tokens 9 and 10 are the same, '\[EMPTY_10\]'",
    ),
    "more experts used than there are": ({"keys": {EXPERTS: 4, USED: 8}}, "uses 8 experts"),
    "experts that are not used": ({"keys": {EXPERTS: 4, USED: 0}}, "uses none of them"),
    "experts used that are not there": ({"keys": {USED: 2}}, "uses 2 experts"),
    "too many experts": ({"keys": {EXPERTS: 1025, USED: 2}}, "takes 1024 at most"),
}


@pytest.mark.parametrize(("made", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_its_loader_asserts_is_refused(
    tmp_path: Path, made: dict[str, Any], reason: str
) -> None:
    path = tiny_model.write(tmp_path / "bad.gguf", **made)
    with pytest.raises(GGUFError, match=reason) as caught:
        load_model(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_empty_tokens_are_no_reason_to_refuse_a_model(tmp_path: Path) -> None:
    tokens = [*TOKENS[:9], "", "", *TOKENS[11:]]
    load_model(tiny_model.write(tmp_path / "empty.gguf", tokens=tokens)).close()


@pytest.fixture(scope="module")
def aborting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose header passes every check of ours and none of llama.cpp's."""
    path = tmp_path_factory.mktemp("model") / "aborting.gguf"
    return tiny_model.write(path, keys={"llama.nextn_predict_layers": 9})


BENCH = ("bench", "-p", "16", "-n", "0", "-s", "0", "-r", "1")


@pytest.mark.parametrize("words", [("perplexity",), BENCH], ids=["perplexity", "bench"])
def test_an_abort_is_one_line_and_status_1(aborting: Path, words: Sequence[str]) -> None:
    program = (sys.executable, "-m", "reellama", "gguf")
    result = subprocess.run(
        [*program, words[0], aborting, *words[1:]], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (1, "")
    line = result.stderr.splitlines()[-1]
    assert line.startswith(f"reellama: llama.cpp broke off with {aborting}: GGML_ASSERT(")
    assert "nextn" in line and "/src/" not in line
    assert len(result.stderr.splitlines()) == (2 if words is BENCH else 1)  # and what is measured


def test_an_exception_that_nobody_catches_is_one_line_too() -> None:
    code = (
        "from reellama.gguf_tools.runtime import backend; backend.init()\n"
        "from llama_cpp._ggml import libggml; libggml._ZSt9terminatev()\n"  # std::terminate
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("reellama: llama.cpp broke off: it did not catch an error of its own")
