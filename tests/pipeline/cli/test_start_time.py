"""The command line starts quickly: nothing heavy is imported before it is needed."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Result
from tests.helpers import tiny_model
from tests.helpers.terminal import REELLAMA, ROOT

HEAVY = {"torch", "open_clip", "llama_cpp", "av", "numpy", "rich", "prompt_toolkit", "jinja2"}


@pytest.mark.parametrize("arguments", [["--help"], ["ask", "--help"], ["--version"], ["asq"]])
def test_help_and_wrong_commands_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from reellama.pipeline.cli.main import run\n"
        f"status = run({arguments!r})\n"
        f"print(sorted({HEAVY!r} & sys.modules.keys()), file=sys.stderr)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stderr.splitlines()[-1] == "[]"


LOOKING = {"PIL", "av", "onnxruntime", "safetensors"}


def test_a_second_question_about_a_video_imports_nothing_that_sees(
    demo_video: Path, tmp_path: Path
) -> None:
    code = (
        "import sys\n"
        "from reellama.pipeline.cli.main import run\n"
        f"status = run(['ask', {str(demo_video)!r}, 'What?', '--max-tokens', '2', '--no-server'])\n"
        f"print(status, sorted({LOOKING!r} & sys.modules.keys()), file=sys.stderr)\n"
    )
    environment = os.environ | {"REELLAMA_CACHE": str(tmp_path)}
    last_lines = []
    for _ in range(2):
        result = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        last_lines.append(result.stderr.splitlines()[-1])
    assert last_lines == [f"0 {sorted(LOOKING)}", "0 []"]


TRAINING = {"torch", "torchvision", "open_clip", "timm", "transformers", "onnx", "sympy"}


@pytest.mark.parametrize("command", [["ask", "What is it?"], ["describe"]])
def test_an_answer_needs_nothing_that_training_needs(command: list[str], demo_video: Path) -> None:
    name, *question = command
    arguments = [name, str(demo_video), *question, "--max-tokens", "2"]
    code = (
        "import sys\n"
        "from reellama.pipeline.cli.main import run\n"
        f"status = run({arguments!r})\n"
        f"print(status, sorted({TRAINING!r} & sys.modules.keys()), file=sys.stderr)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stderr.splitlines()[-1] == "0 []"
    assert result.stdout.strip()


# What the quantizer's child has, what other jobs need, and what all other commands are made of.
NOT_TO_QUANTIZE = {
    "llama_cpp.llama_cpp", "jinja2", "numpy", "gguf.gguf_writer", "yaml", "tomllib",
    "reellama.gguf_tools.quantization.lora_merge", "reellama.pipeline.cli.app",
}  # fmt: skip


def test_quantizing_imports_little_and_loads_llama_cpp_in_its_child_alone(tmp_path: Path) -> None:
    tiny_model.write(tmp_path / "tiny.gguf")
    arguments = ["gguf", "quantize", str(tmp_path / "tiny.gguf"), "Q8_0", "-o", str(tmp_path)]
    code = (
        "import sys\n"
        "from reellama.gguf_tools.lazy_packages import import_lazily\n"
        "from reellama.pipeline.cli.main import run\n"
        "import_lazily(['gguf', 'llama_cpp'])  # as main does\n"
        f"status = run({arguments!r})\n"
        f"print(status, sorted({NOT_TO_QUANTIZE!r} & sys.modules.keys()), file=sys.stderr)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stderr.splitlines()[-1] == "0 []"


def test_help_lists_the_commands_within_80_columns() -> None:
    result = subprocess.run([*REELLAMA, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0
    for command in ("ask", "describe", "chat", "doctor", "train", "eval", "demo-video"):
        assert f"\n  {command} " in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize("command", ["ask", "describe", "gguf", "gguf quantize"])
def test_a_command_made_without_the_others_is_the_same(
    command: str, reellama: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    alone = reellama(*command.split(), "--help")
    (tmp_path / "config.toml").write_text("max-tokens = 256\n")
    monkeypatch.setenv("REELLAMA_CONFIG", str(tmp_path / "config.toml"))
    among_all = reellama(*command.split(), "-h")
    assert alone.out.splitlines() == among_all.out.splitlines()
    assert f"Usage: reellama {command} " in alone.out


def test_a_wrong_command_of_a_group_is_answered_with_the_right_ones(
    reellama: Callable[..., Result],
) -> None:
    result = reellama("gguf", "quantise")
    assert result.status == 2
    assert "No such command 'quantise'" in result.err
    assert "quantize" in result.err.replace("quantise", "")
