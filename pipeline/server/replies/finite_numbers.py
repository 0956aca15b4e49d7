"""Numbers of a body that other readers of JSON could not take: NaN, 1e999, thousands of digits.

What a client sends is told to others: to templates, to the store, back to the client. So they are
refused wherever they stand, once. Options that have bounds are judged by these, by their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from reellama.pipeline.llm.generation_options import SAMPLING_OPTIONS
from reellama.pipeline.option_fields import is_finite

BOUNDED = frozenset({*SAMPLING_OPTIONS, "keep_alive"})
# Where these stand: in the body itself, or in one of these of it.
BOUNDED_IN = ((), ("options",), ("parameters",))
# What such a number has, and hardly anything else does.
_MARKS = re.compile(rb"NaN|Infinity|\d[eE]\+?\d{3}|\d{200}")
_PIECE = 1 << 20  # bytes that are looked through before others may go on
_MAX_MARK_BYTES = 200  # the most that `_MARKS` matches

Place = tuple[str | int, ...]


def may_have_nonfinite(data: bytes) -> bool:
    """Whether a JSON text may have such a number. It has none where this says no."""
    starts = range(0, len(data), _PIECE)
    return any(_MARKS.search(data, i, i + _PIECE + _MAX_MARK_BYTES) for i in starts)


def nonfinite_places(body: Any) -> Iterator[Place]:
    """The places of such numbers in a body, but for options that have bounds of their own."""
    left: list[tuple[Place, Any]] = [((), body)]
    while left:
        place, value = left.pop()
        if isinstance(value, dict):
            left += [((*place, name), item) for name, item in value.items()]
        elif isinstance(value, list):
            left += [((*place, i), item) for i, item in enumerate(value)]
        elif isinstance(value, int | float) and not (is_finite(value) or _is_bounded(place)):
            yield place


def _is_bounded(place: Place) -> bool:
    return bool(place) and place[-1] in BOUNDED and place[:-1] in BOUNDED_IN
