"""Folders in the user's cache where what was computed is kept; each may be removed at any time.

REELLAMA_CACHE names another folder for them.
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

CACHE = Path(os.environ.get("REELLAMA_CACHE") or platformdirs.user_cache_dir("reellama"))
ENCODED_FRAMES = CACHE / "encoded-frames"  # videos that were looked at: their soft tokens
READ_PROMPTS = CACHE / "read-prompts"  # what an LLM made of these tokens: parts of its KV cache
KEPT_GRAPHS = CACHE / "graphs"  # networks of bundles that came without graphs
TOLD = CACHE / "told"  # what was said once in a terminal
MOMENTS = CACHE / "moments"  # videos that were searched: moments by what they look like
