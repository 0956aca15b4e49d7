"""Context variables of the current request: its client, and headers of its answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reellama.pipeline.server.settings import Settings

POSITION_HEADER = "x-queue-position"
# Notes on the request's videos, which `ask` prints: a JSON list of strings, in ASCII.
NOTES_HEADER = "x-video-notes"
MAX_NOTES_CHARACTERS = 4000  # in that header: clients refuse lines of much more than 8,000

# The address of the client whose request is answered, or LOCAL.
CLIENT: ContextVar[str] = ContextVar("client", default="")
LOCAL = "the server's own user"  # by the Unix socket: may name any file, and needs no token

ANSWER_HEADERS: ContextVar[dict[str, str] | None] = ContextVar("headers", default=None)


def readable_dirs(settings: Settings) -> tuple[Path, ...]:
    """The folders in which this request may name files; for the server's own user, all folders."""
    return (Path("/"),) if CLIENT.get() == LOCAL else settings.allow_dirs


def add_header(name: str, value: str) -> None:
    """Add a header to the answer to the current request."""
    headers = ANSWER_HEADERS.get()
    if headers is not None:
        headers[name] = value


def add_notes(notes: Sequence[str]) -> None:
    """Add notes on a video to the answer to the current request, each of them once."""
    headers = ANSWER_HEADERS.get() or {}
    earlier = parse_notes(headers.get(NOTES_HEADER))
    text = json.dumps([*dict.fromkeys([*earlier, *notes])])
    if notes and len(text) <= MAX_NOTES_CHARACTERS:
        add_header(NOTES_HEADER, text)


def parse_notes(header: str | None) -> list[str]:
    """The notes in a NOTES_HEADER. Raises ValueError for any other value."""
    notes = json.loads(header) if header else []
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise ValueError(f"not a list of notes: {header}")
    return notes
