"""Large JSON bodies, read in steps between which others go on.

Nearly all of a large body is pictures and videos in base64. JSON's parser would go through them
in one step, in which nobody else is answered; so they are taken out before it, and put back.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

SPLIT_ABOVE_BYTES = 1 << 20  # smaller bodies are read at once
LONG_STRING_BYTES = 1 << 16  # strings as long as this are taken out
# A string is taken out where it has none of these. Between two strings there is one of the first.
_ELSEWHERE = b",:[]{}\\\n"
_MAX_HEAD_BYTES = 200  # for heads such as "data:video/mp4;base64,"


class LargeBody:
    """A body whose long strings are taken out. `rest`: JSON, with a short string for each of them.

    Raises ValueError for what is not UTF-8.
    """

    def __init__(self, data: bytes) -> None:
        self._long: list[str] = []
        self._mark = secrets.token_hex(16)  # which no string has that a client sent
        parts: list[bytes] = []
        end = 0
        for start, stop in _long_strings(data):
            parts += data[end:start], f"{self._mark}{len(self._long)}".encode()
            self._long.append(str(memoryview(data)[start:stop], "utf-8"))
            end = stop
        self.rest = b"".join([*parts, data[end:]])

    def put_back(self, value: Any) -> Any:
        """The value of `rest`, or a part of it, with the long strings."""
        if isinstance(value, str):
            head, mark, n = value.partition(self._mark)
            return head + self._long[int(n)] if mark else value
        if isinstance(value, list):
            return [self.put_back(item) for item in value]
        if isinstance(value, dict):
            return {self.put_back(name): self.put_back(item) for name, item in value.items()}
        return value


def _long_strings(data: bytes) -> Iterator[tuple[int, int]]:
    """Where long strings begin and end, without what a data URL has before its base64."""
    at = last_stop = 0
    # A long string is over one of these places.
    while (stop := data.find(b'"', at := at + LONG_STRING_BYTES // 2)) >= 0:
        start = data.rfind(b'"', last_stop, at) + 1
        last_stop = stop
        if start and stop - start < LONG_STRING_BYTES:
            continue
        at = stop
        if data[start : start + 5].lower() == b"data:":
            start = data.find(b",", start, start + _MAX_HEAD_BYTES) + 1 or start
        if start and all(data.find(mark, start, stop) < 0 for mark in _ELSEWHERE):
            yield start, stop
