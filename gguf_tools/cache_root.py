"""Where everything is kept that can be made again."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_root() -> Path:
    """The folder that REELLAMA_CACHE names, or else the user's cache folder of this program."""
    return Path(os.environ.get("REELLAMA_CACHE") or user_cache_path("reellama"))
