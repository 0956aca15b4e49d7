"""What is computed on a GPU is brought to the processor before it is read as an array."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITH_TENSORS = [path for name in ("models", "benchmarks") for path in (ROOT / name).rglob("*.py")]


def calls_without_cpu(source: str) -> Iterator[int]:
    """The lines with a call of `.numpy()` that does not follow `.cpu()`: a GPU refuses those."""
    for node in ast.walk(ast.parse(source)):
        read = _called_on(node, "numpy")
        if read is not None and _called_on(read, "cpu") is None:
            yield read.lineno


def _called_on(node: ast.AST, method: str) -> ast.expr | None:
    """What a method is called on, if the node is such a call."""
    match node:
        case ast.Call(func=ast.Attribute(value=value, attr=attr)) if attr == method:
            return value
    return None


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("a = b.numpy()", [1]),
        ("a = b.cpu().numpy()", []),
        ("a = b.cpu().float().numpy()", [1]),
        ("def f(b):\n    return b[0].detach().numpy()", [2]),
        ("import numpy\nnumpy.zeros(3)", []),
    ],
)
def test_calls_without_cpu_are_found_in_any_expression(source: str, lines: list[int]) -> None:
    assert list(calls_without_cpu(source)) == lines


@pytest.mark.parametrize("path", WITH_TENSORS, ids=lambda path: str(path.relative_to(ROOT)))
def test_tensors_are_moved_to_the_cpu_before_numpy(path: Path) -> None:
    assert not list(calls_without_cpu(path.read_text(encoding="utf-8")))
