"""The request that is being answered: its client, and headers that its answer gets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reellama.pipeline.server.settings import Settings

POSITION_HEADER = "x-queue-position"
# Notes on the videos that were sent, as `ask` prints them: JSON, a list of strings, in ASCII.
NOTES_HEADER = "x-video-notes"
MAX_NOTES_CHARACTERS = 4000  # in that header: clients refuse lines of much more than 8,000

# The address of the client whose request is answered, or LOCAL.
CLIENT: ContextVar[str] = ContextVar("client", default="")
LOCAL = "the server's own user"  # who came by the Unix socket: may name files, and needs no token

ANSWER_HEADERS: ContextVar[dict[str, str] | None] = ContextVar("headers", default=None)


def readable_dirs(settings: Settings) -> tuple[Path, ...]:
    """The folders in which this request may name files; for the server's own user, all folders."""
    return (Path("/"),) if CLIENT.get() == LOCAL else settings.allow_dirs


def add_header(name: str, value: str) -> None:
    """Give the answer to the present request a header."""
    headers = ANSWER_HEADERS.get()
    if headers is not None:
        headers[name] = value


def add_notes(notes: Sequence[str]) -> None:
    """Tell notes on a video with the answer to the present request; each of them once."""
    headers = ANSWER_HEADERS.get() or {}
    told = parse_notes(headers.get(NOTES_HEADER))
    text = json.dumps([*dict.fromkeys([*told, *notes])])
    if notes and len(text) <= MAX_NOTES_CHARACTERS:
        add_header(NOTES_HEADER, text)


def parse_notes(header: str | None) -> list[str]:
    """The notes that a header holds. Raises ValueError for one that is something else."""
    notes = json.loads(header) if header else []
    if not isinstance(notes, list) or not all(isinstance(each, str) for each in notes):
        raise ValueError(f"not a list of notes: {header}")
    return notes
