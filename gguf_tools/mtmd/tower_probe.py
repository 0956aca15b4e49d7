"""Whether libmtmd can encode a frame with an mmproj, tried in a child process.

    python -m reellama.gguf_tools.mtmd.tower_probe MMPROJ LLM

Headers tell most of what is wrong with a file. What they do not tell, such as shapes that do not
fit each other, fails an assertion of llama.cpp's, which ends the process that it happens in.
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
PROBE_SECONDS = 600.0  # until a child counts as one that hangs
WORKED, REFUSED = 0, 3  # exit statuses of a child; all others are crashes


def check_tower(mmproj: Path, llm: Path, command: Sequence[str] = PROBE_COMMAND) -> None:
    """Raise VisionTowerError when encoding a frame with `mmproj` would end this process.

    Two files that worked once are not tried again until one of them, or llama.cpp, has changed.
    What a child refuses without a crash is for the caller to find.
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
    """Two, for some families make one picture of them; returns an exit status."""
    with suppress(ImportError, OSError, ValueError):  # a crash that was looked for leaves no core
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
