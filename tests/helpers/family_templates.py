"""Chat templates of many families, from llama-cpp-python's source package: they are not ours."""

import subprocess
import sys
import tarfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import pytest
from filelock import FileLock

PACKAGE = "llama-cpp-python"
INSIDE = "/vendor/llama.cpp/models/templates/"


def family_templates(folder: Path) -> Mapping[str, str]:
    """Templates by name, downloaded once to `folder`; the test is skipped where they cannot be."""
    kept = folder / f"{PACKAGE}-{version(PACKAGE)}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not kept.is_dir():
            _download(kept)
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(kept.glob("*.jinja"))}


def _download(kept: Path) -> None:
    wanted = f"{PACKAGE}=={version(PACKAGE)}"
    sources = kept.with_suffix(".sources")
    command = [sys.executable, "-m", "pip", "download", wanted, "--no-deps", "--no-binary", PACKAGE]
    done = subprocess.run([*command, "-d", str(sources)], capture_output=True, timeout=240)
    archives = list(sources.glob("*.tar.gz"))
    if done.returncode or not archives:
        pytest.skip(f"the source package of {PACKAGE} cannot be downloaded")
    making = kept.with_suffix(".making")
    making.mkdir(exist_ok=True)
    with tarfile.open(archives[0]) as archive:
        for member in archive:
            if INSIDE in member.name and member.name.endswith(".jinja"):
                file = archive.extractfile(member)
                assert file is not None
                (making / Path(member.name).name).write_bytes(file.read())
    archives[0].unlink()
    making.rename(kept)
