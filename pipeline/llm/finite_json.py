"""JSON of clients and models, without numbers that other JSON parsers do not accept."""

from __future__ import annotations

import json
import math
from typing import Any


def finite_json(text: str, *, strict: bool = True) -> Any:
    """Parse JSON. Raises ValueError for invalid or too deeply nested JSON and infinite numbers.

    strict: whether control characters are errors in strings, such as line ends.

    >>> finite_json('{"a": 1.5}')
    {'a': 1.5}
    """
    try:
        return json.loads(
            text, strict=strict, parse_constant=_to_float, parse_float=_to_float, parse_int=_to_int
        )
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def finite_object(text: str) -> dict[str, Any] | None:
    """The object of a JSON text, {} for "". None for other values and invalid JSON."""
    try:
        value = finite_json(text or "{}")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _to_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text:.20} is not a finite number")
    return number


def _to_int(text: str) -> int:
    _to_float(text)  # an integer too large for a float is slow to read and to write
    return int(text)
