"""Base64 as clients send it, decoded in steps."""

from __future__ import annotations

import base64
import binascii
import io
from contextlib import suppress

from reellama.pipeline.server.media.media_items import MediaError

BASE64_PIECE = 1 << 20  # characters, a multiple of 4, that are decoded in one step
_STANDARD = str.maketrans("-_", "+/")  # the alphabet of URLs as the usual one


def decode_base64(text: str) -> bytes:
    """The bytes of plain base64 or of a data URL (`data:video/mp4;base64,...`).

    Whitespace and missing padding are forgiven, and so is the alphabet of URLs. Raises MediaError.
    """
    if text[:5].lower() == "data:":
        kind, comma, text = text.partition(",")
        if not comma or not kind.lower().endswith(";base64"):
            raise MediaError("a data URL must read data:TYPE;base64,DATA")
    with suppress(binascii.Error, ValueError):
        return _decoded(text)  # as nearly everyone writes it
    pieces = (text[i : i + BASE64_PIECE] for i in range(0, len(text), BASE64_PIECE))
    packed = "".join("".join(piece.split()).translate(_STANDARD) for piece in pieces).rstrip("=")
    try:
        return _decoded(packed + "=" * (-len(packed) % 4))
    except (binascii.Error, ValueError) as error:
        raise MediaError("not base64: send the picture or video base64-encoded") from error


def _decoded(text: str) -> bytes:
    """Base64 without gaps, decoded in steps between which others go on."""
    decoded = io.BytesIO()
    for i in range(0, len(text), BASE64_PIECE):
        piece = text[i : i + BASE64_PIECE]
        if "=" in piece and i + BASE64_PIECE < len(text):
            raise ValueError("something stands behind the end")
        decoded.write(base64.b64decode(piece, validate=True))
    return decoded.getvalue()
