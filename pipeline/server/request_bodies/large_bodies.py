"""Large JSON bodies, parsed in steps between which other threads run.

Nearly all of a large body is pictures and videos in base64. The JSON parser would read them in one
step, in which no other request is answered. So long strings are cut out before, and put back after.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

SPLIT_ABOVE_BYTES = 1 << 20  # smaller bodies are parsed in one step
LONG_STRING_BYTES = 1 << 16  # strings of at least this length are cut out
# A string with any of these bytes is not cut out: base64 has none, and between the quotes of two
# strings there is always one.
_NOT_IN_BASE64 = b",:[]{}\\\n"
_MAX_PREFIX_BYTES = 200  # of prefixes such as "data:video/mp4;base64,"


class LargeBody:
    """A body with its long strings cut out. `rest`: the JSON with a placeholder for each of them.

    Raises ValueError for a body that is not UTF-8.
    """

    def __init__(self, data: bytes) -> None:
        self._long_strings: list[str] = []
        self._placeholder = secrets.token_hex(16)  # unknown to clients, so no string has it
        parts: list[bytes] = []
        end = 0
        for start, stop in _long_strings(data):
            parts += data[end:start], f"{self._placeholder}{len(self._long_strings)}".encode()
            self._long_strings.append(str(memoryview(data)[start:stop], "utf-8"))
            end = stop
        self.rest = b"".join([*parts, data[end:]])

    def put_back(self, value: Any) -> Any:
        """A parsed value of `rest`, with the long strings in place of their placeholders."""
        if isinstance(value, str):
            prefix, placeholder, n = value.partition(self._placeholder)
            return prefix + self._long_strings[int(n)] if placeholder else value
        if isinstance(value, list):
            return [self.put_back(item) for item in value]
        if isinstance(value, dict):
            return {self.put_back(name): self.put_back(item) for name, item in value.items()}
        return value


def _long_strings(data: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of each long string, without the prefix of a data URL."""
    at = last_stop = 0
    # Every long string covers one of these positions.
    while (stop := data.find(b'"', at := at + LONG_STRING_BYTES // 2)) >= 0:
        start = data.rfind(b'"', last_stop, at) + 1
        last_stop = stop
        if start and stop - start < LONG_STRING_BYTES:
            continue
        at = stop
        if data[start : start + 5].lower() == b"data:":
            start = data.find(b",", start, start + _MAX_PREFIX_BYTES) + 1 or start
        if start and all(data.find(byte, start, stop) < 0 for byte in _NOT_IN_BASE64):
            yield start, stop
