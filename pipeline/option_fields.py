"""Fields of option dataclasses: default, bounds and one line of help, all where the field stands.

The command line takes its defaults, ranges and help from here, and the dataclass its check.
"""

from __future__ import annotations

import math
import sys
from dataclasses import Field, field, fields
from typing import Any


def option(default: Any, text: str, low: float = -math.inf, high: float = math.inf) -> Any:
    """A field of an options dataclass, `text` its help, `low` and `high` its bounds."""
    return field(default=default, metadata={"help": text, "low": low, "high": high})


def option_field(options: type, name: str) -> Field[Any]:
    """The field `name` of an options dataclass; KeyError where there is none."""
    return {each.name: each for each in fields(options)}[name]


def out_of_bounds(options: Any) -> str | None:
    """What is wrong with the first value that is out of its bounds, or None. NaN always is."""
    for each in fields(options):
        value, low, high = getattr(options, each.name), *_bounds(each)
        if isinstance(value, int | float) and not (is_finite(value) and low <= value <= high):
            shown = f"{value}" if is_finite(value) or isinstance(value, float) else "too large"
            return f"{each.name} is {shown}, but must lie between {low} and {high}"
    return None


def is_finite(number: float) -> bool:
    """Whether it is a number, and a float can be as large.

    >>> is_finite(1.5), is_finite(math.nan), is_finite(10**400)
    (True, False, False)
    """
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer that no float is as large as
        return False


def as_float(number: float) -> float:
    """A number as a float; an integer that no float is as large as is the largest one.

    >>> as_float(5), as_float(-(10**400)), as_float(math.inf)
    (5.0, -1.7976931348623157e+308, inf)
    """
    try:
        return float(number)
    except OverflowError:
        return sys.float_info.max if number > 0 else -sys.float_info.max


def _bounds(each: Field[Any]) -> tuple[float, float]:
    return each.metadata.get("low", -math.inf), each.metadata.get("high", math.inf)
