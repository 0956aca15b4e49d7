"""Lists of values in one argument, such as `1,4-6,16-64+16`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from typer import BadParameter

T = TypeVar("T")
MAX_RANGE = 1000  # numbers of one range
RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9})(?:\+([0-9]{1,9})|\*([0-9]{1,9}))?)?")


def parse_numbers(text: str) -> list[int]:
    """Whole numbers from a list whose parts may be ranges, in llama-bench's form.

    >>> parse_numbers("1,4-6,16-64+16,256-2048*2")
    [1, 4, 5, 6, 16, 32, 48, 64, 256, 512, 1024, 2048]

    Raises BadParameter for anything else, and for a range of more than MAX_RANGE numbers.
    """
    numbers: list[int] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = RANGE.fullmatch(part)
        if match is None:
            raise BadParameter(
                f"{part!r:.40} is no number, nor a range such as 16-64+16 or 16-64*2"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        add, times = int(match[3] or 1), int(match[4] or 1)
        if last < first or add < 1 or (match[4] and (times < 2 or first < 1)):
            raise BadParameter(f"{part!r:.40} is a range that ends nowhere")
        value, count = first, 0
        while value <= last:
            numbers.append(value)
            value, count = (value * times if match[4] else value + add), count + 1
            if count > MAX_RANGE:
                raise BadParameter(f"{part!r:.40} has more than {MAX_RANGE} numbers")
    return numbers


def parse_list(text: str, parse: Callable[[str], T]) -> list[T]:
    """The values of a list such as `1,2,4`. Raises BadParameter for one that is none."""
    try:
        return [parse(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise BadParameter(f"{text!r}: {error}") from error
