"""The environment of the server's child processes, which read what nobody trusts."""

from __future__ import annotations

import os
from pathlib import Path

# The folder that the children run in: there, Python finds the same packages as here.
ROOT = Path(__file__).parents[4]
# All that a child gets of the server's environment: where programs and libraries are, no secrets.
_PASSED_ON = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONPATH")


def child_environment() -> dict[str, str]:
    """Environment variables for a child whose address space is limited.

    Threads of BLAS and arenas of malloc would only fill that space.
    """
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return environment | {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
    }
