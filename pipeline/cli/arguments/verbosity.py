"""How much is said beside an answer: --quiet and --verbose, which every command takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typer import BadParameter, Option


@dataclass(frozen=True)
class Verbosity:
    """How much is said beside the answer."""

    quiet: Annotated[bool, Option("--quiet", "-q", help="Nothing but the answer, and errors.")] = (
        False
    )
    verbose: Annotated[bool, Option("--verbose", "-v", help="Files, frames and timings too.")] = (
        False
    )


_now = Verbosity()


def set_verbosity(wanted: Verbosity) -> None:
    """Set how much is said from now on. Raises BadParameter where both were asked for."""
    global _now  # one command runs in a process
    if wanted.quiet and wanted.verbose:
        raise BadParameter("--quiet and --verbose: take one of them")
    _now = wanted


def is_quiet() -> bool:
    """Whether notes are left out."""
    return _now.quiet


def is_verbose() -> bool:
    """Whether details are wanted."""
    return _now.verbose
