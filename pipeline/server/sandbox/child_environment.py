"""The environment of the server's child processes, which process untrusted input."""

from __future__ import annotations

import os
from pathlib import Path

# The working folder of the children, where Python finds the same packages.
ROOT = Path(__file__).parents[4]
# Variables that a child inherits: where programs and libraries are, no secrets.
_PASSED_ON = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONPATH")


def child_environment() -> dict[str, str]:
    """Environment variables for a child whose address space is limited.

    Threads of BLAS and arenas of malloc would take up that space.
    """
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return environment | {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
    }
