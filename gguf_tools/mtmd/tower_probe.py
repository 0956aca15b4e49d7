"""Try in a child process whether libmtmd can encode a frame with an mmproj.

    python -m reellama.gguf_tools.mtmd.tower_probe MMPROJ LLM

Most problems of a file can be detected from its header. Others, such as shapes that do not fit each
other, fail an assertion in llama.cpp, which aborts the process.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np

from reellama.gguf_tools.atomic_write import stamp
from reellama.gguf_tools.cache_root import cache_root
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.mtmd.mtmd_tower import MtmdTower, VisionTowerError

PROBE_COMMAND = (sys.executable, "-m", "reellama.gguf_tools.mtmd.tower_probe")
PROBE_SECONDS = 600.0  # timeout for a child that hangs
WORKED, REFUSED = 0, 3  # exit statuses of a child; all others mean a crash


def check_tower(mmproj: Path, llm: Path, command: Sequence[str] = PROBE_COMMAND) -> None:
    """Raise VisionTowerError if encoding a frame with `mmproj` would crash this process.

    Files that worked are not tried again until one of them, or llama.cpp, changes. An error without
    a crash is not raised here: the caller will get it, too.
    """
    worked = folder() / _key(mmproj, llm)
    if worked.exists():
        return
    try:
        child = subprocess.run(
            [*command, str(mmproj.absolute()), str(llm.absolute())],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_SECONDS,
            cwd=Path(__file__).parents[3],  # where the child finds this package
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise VisionTowerError(
            f"{mmproj} gave no answer in {PROBE_SECONDS:.0f} s when it was tried on a frame"
        ) from None
    if child.returncode not in (WORKED, REFUSED):
        raise VisionTowerError(
            f"{mmproj} makes llama.cpp crash: it is damaged, or made for another version; download "
            "it again, or update: pip install -U llama-cpp-python"
        )
    if child.returncode == WORKED:
        with suppress(OSError):  # a cache folder that cannot be written costs another try
            worked.parent.mkdir(parents=True, exist_ok=True)
            worked.touch()


def folder() -> Path:
    """Where is remembered what worked: an empty file for each pair."""
    return cache_root() / "towers"


def _key(mmproj: Path, llm: Path) -> str:
    files = [[str(path.absolute()), *stamp(path)] for path in (mmproj, llm)]
    return hashlib.sha256(json.dumps([version("llama-cpp-python"), files]).encode()).hexdigest()


def _encode_two_frames(mmproj: Path, llm: Path) -> int:
    """Encode two frames, because some families merge two; returns an exit status."""
    with suppress(ImportError, OSError, ValueError):  # leave no core dump after a crash
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with MtmdTower(mmproj, llm) as tower:
            tower.encode([np.zeros((tower.image_size, tower.image_size, 3), np.uint8)] * 2)
    except ReellamaError:
        return REFUSED
    return WORKED


if __name__ == "__main__":
    sys.exit(_encode_two_frames(Path(sys.argv[1]), Path(sys.argv[2])))
