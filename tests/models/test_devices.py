"""What is computed on a GPU is brought to the processor before it is read as an array."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITH_TENSORS = [path for name in ("models", "benchmarks") for path in (ROOT / name).rglob("*.py")]


def read_where_they_are(source: str) -> Iterator[int]:
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
def test_calls_are_found_wherever_they_stand(source: str, lines: list[int]) -> None:
    assert list(read_where_they_are(source)) == lines


@pytest.mark.parametrize("path", WITH_TENSORS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_tensor_is_read_where_it_is(path: Path) -> None:
    assert not list(read_where_they_are(path.read_text(encoding="utf-8")))
