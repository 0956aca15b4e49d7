"""The table of encodings in docs/video-files.md: each of its rows is held by a test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
DOCUMENT = HERE.parents[2] / "docs" / "video-files.md"


def rows() -> list[list[str]]:
    """Cells of the table's rows, without its head."""
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def names_of_tests() -> set[str]:
    """Names of all tests beside this one."""
    trees = [ast.parse(file.read_text()) for file in HERE.glob("test_*.py")]
    return {
        node.name
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_row_names_tests_that_there_are() -> None:
    known, table = names_of_tests(), rows()
    assert len(table) > 15
    for what, _, named in table:
        names = re.findall(r"`(\w+)`", named)
        assert names and set(names) <= known, what
