"""Numbers that other JSON parsers do not accept: NaN, 1e999, thousands of digits.

Values of a body are passed on: to chat templates, to the store, back to the client. So a number
that is not finite is refused wherever it stands. Sampling options and keep_alive are left to their
own checks, whose messages name the bounds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from reellama.pipeline.llm.generation_options import SAMPLING_OPTIONS
from reellama.pipeline.option_fields import is_finite

# Options with bounds of their own, and the paths of the objects that they are fields of.
BOUNDED = frozenset({*SAMPLING_OPTIONS, "keep_alive"})
BOUNDED_IN = ((), ("options",), ("parameters",))
# Matches every number that is not finite, and hardly anything else.
_CANDIDATE = re.compile(rb"NaN|Infinity|\d[eE]\+?\d{3}|\d{200}")
_MAX_CANDIDATE_BYTES = 200
_PIECE = 1 << 20  # bytes searched at a time: other threads run in between

FieldPath = tuple[str | int, ...]


def may_have_nonfinite(data: bytes) -> bool:
    """Whether a JSON text may have a number that is not finite; False is certain."""
    starts = range(0, len(data), _PIECE)
    return any(_CANDIDATE.search(data, i, i + _PIECE + _MAX_CANDIDATE_BYTES) for i in starts)


def nonfinite_paths(body: Any) -> Iterator[FieldPath]:
    """The paths of the numbers in a body that are not finite, without bounded options."""
    stack: list[tuple[FieldPath, Any]] = [((), body)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, dict):
            stack += [((*path, name), item) for name, item in value.items()]
        elif isinstance(value, list):
            stack += [((*path, i), item) for i, item in enumerate(value)]
        elif isinstance(value, int | float) and not (is_finite(value) or _is_bounded(path)):
            yield path


def _is_bounded(path: FieldPath) -> bool:
    return bool(path) and path[-1] in BOUNDED and path[:-1] in BOUNDED_IN
