"""Prompts are text files that anybody can change, short enough for a CPU to read every time."""

from pathlib import Path

import pytest

from reellama import prompts
from reellama.gguf_tools.text.tokenizer import Tokenizer


@pytest.mark.parametrize("name", ["system", "describe"])
def test_a_prompt_is_what_stands_in_its_file(name: str) -> None:
    file = Path(prompts.__file__).with_name(f"{name}.txt")
    assert prompts.load(name) == file.read_text(encoding="utf-8").rstrip("\n") != ""


def test_the_system_prompt_takes_less_than_25_tokens(smollm2: Path) -> None:
    assert len(Tokenizer.from_path(smollm2).encode(prompts.load("system"))) < 25


def test_a_missing_prompt_is_answered_with_those_there_are() -> None:
    with pytest.raises(KeyError, match="no prompt named 'sytem'.*describe, system"):
        prompts.load("sytem")
