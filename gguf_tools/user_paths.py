"""Paths as users type them."""

from __future__ import annotations

import os
from pathlib import Path


def expand_user(path: str | Path) -> Path:
    """Expand `~` and `~user`. Unlike `Path.expanduser`, a user that does not exist is no error."""
    return Path(os.path.expanduser(path))
