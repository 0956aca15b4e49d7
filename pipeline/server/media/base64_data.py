"""Lenient decoding of base64, in steps between which other threads run."""

from __future__ import annotations

import base64
import binascii
import io
from contextlib import suppress

from reellama.pipeline.server.media.media_items import MediaError

BASE64_PIECE = 1 << 20  # characters decoded in one step, a multiple of 4
_TO_STANDARD_ALPHABET = str.maketrans("-_", "+/")  # from the URL-safe one


def decode_base64(text: str) -> bytes:
    """The bytes of plain base64 or of a data URL (`data:video/mp4;base64,...`).

    Accepts whitespace, missing padding and the URL-safe alphabet. Raises MediaError.
    """
    if text[:5].lower() == "data:":
        prefix, comma, text = text.partition(",")
        if not comma or not prefix.lower().endswith(";base64"):
            raise MediaError("a data URL must read data:TYPE;base64,DATA")
    with suppress(binascii.Error, ValueError):
        return _decode(text)  # nearly all clients send strict base64
    pieces = (text[i : i + BASE64_PIECE] for i in range(0, len(text), BASE64_PIECE))
    lines = ("".join(piece.split()).translate(_TO_STANDARD_ALPHABET) for piece in pieces)
    normalized = "".join(lines).rstrip("=")
    try:
        return _decode(normalized + "=" * (-len(normalized) % 4))
    except (binascii.Error, ValueError) as error:
        raise MediaError("not base64: send the picture or video base64-encoded") from error


def _decode(text: str) -> bytes:
    """The bytes of strict base64. Raises ValueError for other text."""
    decoded = io.BytesIO()
    for i in range(0, len(text), BASE64_PIECE):
        piece = text[i : i + BASE64_PIECE]
        if "=" in piece and i + BASE64_PIECE < len(text):
            raise ValueError("something stands behind the end")
        decoded.write(base64.b64decode(piece, validate=True))
    return decoded.getvalue()
