"""Times of a video as people write them."""

from __future__ import annotations


def format_time(seconds: float) -> str:
    """A time as people write it: `0:07.5`, `12:30.0`, `1:02:03.0`.

    >>> format_time(7.48), format_time(3723)
    ('0:07.5', '1:02:03.0')
    """
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    ending = f"{minutes:02d}:{rest / 10:04.1f}" if hours else f"{minutes}:{rest / 10:04.1f}"
    return f"{hours}:{ending}" if hours else ending
