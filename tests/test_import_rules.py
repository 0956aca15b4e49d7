"""Who may import whom: prompts <- gguf_tools <- models <- pipeline, and nothing heavy at start."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("prompts", "gguf_tools", "models", "pipeline")
FORBIDDEN = {
    "prompts": {"gguf_tools", "models", "pipeline", "torch", "llama_cpp"},
    "gguf_tools": {"prompts", "models", "pipeline", "torch", "open_clip", "transformers"},
    "models": {"pipeline", "llama_cpp"},
    "pipeline": set(),
}
VISION = {"torch", "torchvision", "open_clip", "timm", "transformers", "av", "PIL"}


def modules() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imported_packages(source: str, package: str) -> Iterator[str]:
    """The top-level packages that `source`, a module of `package`, imports, at any depth in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield package if node.level else (node.module or "").partition(".")[0]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch.nn as nn, numpy", {"torch", "numpy"}),
        ("def late():\n    from models.tower import Tower", {"models"}),
        ("from . import video\nfrom .cli import main", {"pipeline"}),
        ("# import torch\n'import av'", set()),
    ],
)
def test_imports_are_found_wherever_they_stand(source: str, expected: set[str]) -> None:
    assert set(imported_packages(source, "pipeline")) == expected


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_folder_may(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    imported = set(imported_packages(path.read_text(encoding="utf-8"), package))
    assert not imported & FORBIDDEN[package]


def loaded_by(module: str) -> set[str]:
    """The modules that a fresh interpreter has loaded once it has imported `module`."""
    code = f"import sys, {module}; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_the_engine_knows_nothing_of_video_or_torch() -> None:
    assert not loaded_by("pipeline.engine") & {*VISION, "models", "prompts"}


@pytest.mark.parametrize("module", ["pipeline", "pipeline.cli.main"])
def test_starting_imports_nothing_heavy(module: str) -> None:
    assert not loaded_by(module) & {*VISION, "llama_cpp", "gguf", "numpy"}
