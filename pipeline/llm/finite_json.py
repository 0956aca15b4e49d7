"""JSON of a client or a model, with only those numbers that every reader of JSON takes."""

from __future__ import annotations

import json
import math
from typing import Any


def finite_json(text: str, *, strict: bool = True) -> Any:
    """The value of a JSON text. Raises ValueError for what is none, is nested too deep, or has a
    number that is not finite: one that other readers of JSON could not take.

    strict: whether line ends and the like are errors in strings.

    >>> finite_json('{"a": 1.5}')
    {'a': 1.5}
    """
    try:
        return json.loads(
            text, strict=strict, parse_constant=_finite, parse_float=_finite, parse_int=_whole
        )
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def finite_object(text: str) -> dict[str, Any] | None:
    """The object of a JSON text, none for "", or None for what `finite_json` refuses."""
    try:
        value = finite_json(text or "{}")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text:.20} is not a finite number")
    return number


def _whole(text: str) -> int:
    _finite(text)  # an integer too large for a float is slow to read and to write
    return int(text)
