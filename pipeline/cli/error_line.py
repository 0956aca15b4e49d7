"""An error as one line on stderr. Nothing heavy is imported: Python may still be starting."""

from __future__ import annotations

import sys


def print_error_line(message: str, status: int = 1) -> int:
    """Print one line on stderr; returns `status`."""
    line = " ".join(message.split())
    sys.stderr.write(f"reellama: {line}\n")
    return status
