"""`keep_alive` of requests and the command line: how long an unused model stays in memory."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator

from reellama.pipeline.option_fields import as_float

SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
DURATIONS = re.compile(rf"([+-]?)((?:{DURATION.pattern})+)")
MAX_KEEP_ALIVE_SECONDS = 100 * 365 * 86400.0  # timedelta overflows for much longer times


def parse_keep_alive(value: Any) -> float | None:
    """A `keep_alive`: seconds as a number, or text such as "5m" or "1h30m"; -1.0 is for ever.

    >>> [parse_keep_alive(value) for value in ("1h30m", 0, "-1m", "10")]
    [5400.0, 0.0, -1.0, 10.0]
    """
    if value is None:
        return None
    if isinstance(value, str) and (match := DURATIONS.fullmatch(value.strip())):
        length = sum(float(n) * SECONDS[unit] for n, unit in DURATION.findall(match[2]))
        value = -length if match[1] == "-" else length
    try:
        number = "nan" if isinstance(value, bool) else value
        seconds = as_float(number) if isinstance(number, int) else float(number)
    except (TypeError, ValueError):
        seconds = float("nan")
    if math.isnan(seconds):
        raise ValueError(f"keep_alive is {value!r:.60}; give seconds, or text such as 5m")
    return -1.0 if seconds < 0 else min(seconds, MAX_KEEP_ALIVE_SECONDS)


# A field `keep_alive` of a request, in seconds.
KeepAlive = Annotated[float | None, BeforeValidator(parse_keep_alive)]
