"""What was said in a terminal already: some lines are worth reading once, not with each answer.

A terminal is known by its device and its session, which a new shell begins. Where there is none, as
in a script, everything is said each time.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from contextlib import suppress

from reellama.models.cache_folders import SHOWN_NOTICES

# A line counts as printed for a day: devices and sessions get the same numbers again, one day.
REMEMBER_SECONDS = 24 * 3600.0


def is_new_here(line: str) -> bool:
    """Whether `line` was not said in this terminal today; from here on it was."""
    terminal = _terminal()
    if terminal is None:
        return True
    marker = SHOWN_NOTICES / hashlib.sha256(f"{terminal} {line}".encode()).hexdigest()
    with suppress(OSError):  # a cache that cannot be written to: it is said again
        if marker.is_file() and time.time() - marker.stat().st_mtime < REMEMBER_SECONDS:
            return False
        SHOWN_NOTICES.mkdir(parents=True, exist_ok=True)
        for old in SHOWN_NOTICES.iterdir():
            if time.time() - old.stat().st_mtime >= REMEMBER_SECONDS:
                old.unlink(missing_ok=True)
        marker.touch()
    return True


def _terminal() -> str | None:
    """A name for the terminal that stderr is."""
    with suppress(OSError, ValueError, AttributeError):  # no terminal, closed, or Windows
        return f"{os.ttyname(sys.stderr.fileno())} {os.getsid(0)}"
    return None
