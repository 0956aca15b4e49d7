"""Fields of option dataclasses: default, bounds and one line of help, all where the field stands.

The command line takes its defaults, ranges and help from here, and the dataclass its check.
"""

from __future__ import annotations

import math
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
        if isinstance(value, int | float) and not (math.isfinite(value) and low <= value <= high):
            return f"{each.name} is {value}, but must lie between {low} and {high}"
    return None


def _bounds(each: Field[Any]) -> tuple[float, float]:
    return each.metadata.get("low", -math.inf), each.metadata.get("high", math.inf)
