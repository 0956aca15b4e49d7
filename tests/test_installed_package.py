"""What `pip install` brings works in any folder, under one name: `reellama`."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("gguf_tools", "models", "pipeline", "prompts")
DATA = (
    "gguf_tools/measuring/data/english.txt",
    "models/bundles/mini/bundle.json",
    "models/bundles/mini/scores.json",
    "models/bundles/mini/projector.safetensors",
    "models/bundles/mini/tower/open_clip_model.safetensors",
    "models/configs/mini.toml",
    "models/synthetic/assets/data/kinds.csv",
    "pipeline/cli/attention_page.html",
    "pipeline/evaluation/html_report.html",
    "prompts/system.txt",
)
SCRIPT = """
import sys
import models, pipeline
import reellama

assert "torch" not in sys.modules, "nothing is loaded before it is used"

from reellama import VideoChat

assert models.MINE and pipeline.MINE
with VideoChat(sys.argv[1]) as chat:
    print(chat.ask("What is in the video?", max_tokens=3))
"""


def run(*command: str | Path, cwd: Path) -> str:
    """What `command` writes, in an environment that does not lead to this checkout."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources: a build leaves files in its folder."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("reellama", *FOLDERS):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignore)
    build = "import sys, setuptools.build_meta as backend; backend.build_wheel(sys.argv[1])"
    run(sys.executable, "-c", build, source / "dist", cwd=source)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and with the packages that this environment has."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # Only the folder is added: the links of editable installs in it are not followed.
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin/python", "install", "--quiet")
    run(*pip, "--no-deps", "--no-index", "--no-compile", wheel, cwd=folder)
    return folder


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    """The folder of a person whose modules have names that are common."""
    for module in ("models/__init__.py", "pipeline.py", "prompts.py", "gguf_tools.py"):
        (tmp_path / module).parent.mkdir(exist_ok=True)
        (tmp_path / module).write_text("MINE = True\n")
    return tmp_path


def test_only_one_name_is_installed(installed: Path) -> None:
    (packages,) = installed.glob("lib/python*/site-packages")
    assert (packages / "reellama/__init__.py").is_file()
    assert not [name for name in FOLDERS if list(packages.glob(f"{name}*"))]


@pytest.mark.parametrize("name", DATA)
def test_data_files_are_installed_with_it(installed: Path, name: str) -> None:
    (packages,) = installed.glob("lib/python*/site-packages")
    assert (packages / "reellama" / name).read_bytes() == (ROOT / name).read_bytes()


def test_a_script_beside_modules_of_the_same_names_chats(
    installed: Path, own_folder: Path, square_video: Path
) -> None:
    script = own_folder / "script.py"
    script.write_text(SCRIPT)
    assert run(installed / "bin/python", script, square_video, cwd=own_folder).strip()


@pytest.mark.parametrize("command", [("reellama",), ("python", "-m", "reellama")])
def test_the_command_runs_beside_modules_of_the_same_names(
    installed: Path, own_folder: Path, command: tuple[str, ...]
) -> None:
    program = installed / "bin" / command[0]
    assert "Usage: reellama" in run(program, *command[1:], "--help", cwd=own_folder)


def test_modules_come_from_the_environment_and_each_once(installed: Path, own_folder: Path) -> None:
    code = (
        "import sys, reellama\n"
        "from reellama import Sampling\n"
        "from reellama.pipeline.llm.token_sampling import Sampling as same\n"
        "assert Sampling is same\n"
        f"assert not set(sys.modules) & set({FOLDERS!r})\n"
        "print(reellama.__file__)"
    )
    file = run(installed / "bin/python", "-c", code, cwd=own_folder).strip()
    assert Path(file).is_relative_to(installed)


def test_llm_finds_the_plugin(installed: Path, own_folder: Path) -> None:
    code = (
        "from importlib.metadata import entry_points\n"
        "(point,) = entry_points(group='llm', name='reellama')\n"
        "print(point.load().__name__)"
    )
    name = run(installed / "bin/python", "-c", code, cwd=own_folder).strip()
    assert name == "reellama.pipeline.integrations.llm_plugin"
