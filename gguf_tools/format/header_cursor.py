"""Read typed values from the header of a GGUF file, with bounds checks."""

import struct
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from reellama.gguf_tools.errors import GGUFError

# The largest vocabularies in use have 262,144 entries, in headers of some 15 MB. Limits keep a
# malicious header to a few seconds and some 500 MB of memory.
MAX_HEADER = 256 << 20  # bytes
MAX_ELEMENTS = 1 << 22  # in all arrays of a file together
BLOCK = 1 << 18  # bytes that a file with a vocabulary is read in

STRING, ARRAY = 8, 9
# The other value types, by their number in the file.
NUMPY_TYPES = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}


class HeaderCursor:
    """A position in an open GGUF file that only moves forward.

    Every method raises GGUFError instead of reading past the end of the file.
    """

    def __init__(self, file: "BufferedReader[Any]", size: int, path: Path) -> None:
        self.path = path
        self.position = 0
        self._file = file
        self._size = size
        self._elements_left = MAX_ELEMENTS

    def damaged(self, what: str) -> GGUFError:
        """Return the error that says `what` is wrong with the file."""
        return GGUFError(f"{self.path} is damaged: {what}; download it again")

    def take(self, n_bytes: int) -> bytes:
        """Return the next `n_bytes` bytes."""
        self._check(n_bytes)
        data = self._file.read(n_bytes)
        if len(data) != n_bytes:  # the file became shorter since it was measured
            raise self._cut_off()
        self.position += n_bytes
        return data

    def number(self, layout: str) -> int:
        """Return the next integer, of the `struct` layout given."""
        (value,) = struct.unpack(layout, self.take(struct.calcsize(layout)))
        return value

    def count(self, limit: int, of_what: str) -> int:
        """Return the next 64-bit count, at most `limit`."""
        count = self.number("<Q")
        if count > limit:
            raise self.damaged(f"it claims to have {count:,} {of_what}")
        return count

    def string(self) -> str:
        """Return the next string; bytes that are not UTF-8 become U+FFFD."""
        return self.take(self.number("<Q")).decode("utf-8", "replace")

    def strings(self, count: int) -> list[str]:
        """Return the next `count` strings.

        A vocabulary has a hundred thousand, and every command reads one: those that lie whole in a
        block are taken without a call for each, and the one after them by itself, with its checks.
        """
        found: list[str] = []
        from_bytes = int.from_bytes
        while len(found) < count:
            # What the file has buffered: nothing is read twice.
            block = self._file.peek()[: min(self._size - self.position, self._header_left())]
            at = 0
            for _ in range(count - len(found)):
                start = at + 8
                end = start + from_bytes(block[at:start], "little")
                if end > len(block):
                    break
                found.append(block[start:end].decode("utf-8", "replace"))
                at = end
            self.position += len(self._file.read(at))
            if len(found) < count:
                found.append(self.string())
        return found

    def value(self) -> Any:
        """Return the next typed value: int, float, bool, str, or a list of one of these."""
        type_ = self.number("<I")
        if type_ != ARRAY:
            return self._string_or_numbers(type_, 1)[0]
        element_type = self.number("<I")
        if element_type == ARRAY:
            raise self.damaged("it has an array of arrays")
        count = self.count(self._elements_left, "elements in an array")
        self._elements_left -= count
        return self._string_or_numbers(element_type, count)

    def _string_or_numbers(self, type_: int, count: int) -> list[Any]:
        if type_ == STRING:
            return self.strings(count)
        if type_ not in NUMPY_TYPES:
            raise self.damaged(f"it has a value of the unknown type {type_}")
        dtype = np.dtype(NUMPY_TYPES[type_])
        return np.frombuffer(self.take(count * dtype.itemsize), dtype).tolist()

    def _check(self, n_bytes: int) -> None:
        if n_bytes > self._size - self.position:
            raise self._cut_off()
        if n_bytes > self._header_left():
            raise self.damaged(f"its header is larger than {MAX_HEADER >> 20} MB")

    def _header_left(self) -> int:
        return MAX_HEADER - self.position

    def _cut_off(self) -> GGUFError:
        return GGUFError(
            f"{self.path} is cut off or damaged in its header "
            f"(byte {self.position:,} of {self._size:,}); download it again"
        )
