"""The README and the docs show no command whose arguments the command line would refuse."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from reellama.pipeline.cli.app import app
from reellama.pipeline.cli.arguments.grouped_command import adapt_types

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"^ {4}(?:\w+=\S+ )*(reellama .+)$", re.MULTILINE)  # in an indented block


def documented_commands() -> list[str]:
    return sorted({command for page in PAGES for command in COMMAND.findall(page.read_text())})


@pytest.fixture(scope="module")
def program() -> Any:
    program = get_command(app)
    adapt_types(program)
    return program


def parse(program: Any, command: str) -> None:
    """Parse a command as a shell and then `reellama` do, without running it."""
    words = shlex.split(command, comments=True)[1:]
    words = words[: words.index(">")] if ">" in words else words
    context = program.make_context("reellama", words)
    while hasattr(context.command, "resolve_command"):  # a group of commands
        name, child, words = context.command.resolve_command(context, words)
        context = child.make_context(name, words, parent=context)


@pytest.mark.parametrize("command", documented_commands())
def test_the_arguments_of_a_documented_command_are_taken(program: Any, command: str) -> None:
    parse(program, command)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("reellama ask a.mp4 'What happens?' --colour red", "No such option"),
        ("reellama gguf quantise a.gguf Q8_0", "No such command"),
        ("reellama gguf fit a.gguf --vram much", "is not a size"),
    ],
)
def test_a_documented_command_with_a_mistake_is_noticed(
    program: Any, command: str, message: str
) -> None:
    with pytest.raises(Exception, match=message):
        parse(program, command)
