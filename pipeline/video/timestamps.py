"""Format and parse times such as 1:02:03.5."""

from __future__ import annotations

from functools import reduce


def format_time(seconds: float) -> str:
    """Format seconds as `0:07.5`, `12:30.0` or `1:02:03.0`.

    >>> format_time(7.48), format_time(3723)
    ('0:07.5', '1:02:03.0')
    """
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    ending = f"{minutes:02d}:{rest / 10:04.1f}" if hours else f"{minutes}:{rest / 10:04.1f}"
    return f"{hours}:{ending}" if hours else ending


def parse_time(text: str) -> float:
    """Parse `90`, `1:30` or `1:02:03.5` into seconds. Raises ValueError for other text.

    >>> parse_time("90"), parse_time("1:30"), parse_time("1:02:03.5")
    (90.0, 90.0, 3723.5)
    """
    try:
        parts = [float(part) for part in text.split(":")]
    except ValueError:
        parts = []
    if not 1 <= len(parts) <= 3 or any(not 0 <= part < float("inf") for part in parts):
        raise ValueError(f"{text!r} is not a time: write seconds, 1:30 or 1:02:03.5")
    return reduce(lambda total, part: total * 60 + part, parts)
