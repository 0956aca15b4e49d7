"""Texts that are typed as arguments."""

from __future__ import annotations

import os


def typed_text(value: str | None) -> str | None:
    """The text of an argument, with U+FFFD for bytes that are not UTF-8, which no tokenizer reads.

    Python passes such bytes on as halves of characters, so that they can be names of files.

    >>> typed_text("caf\\udce9"), typed_text("café")
    ('caf\ufffd', 'café')
    """
    return None if value is None else os.fsencode(value).decode(errors="replace")
