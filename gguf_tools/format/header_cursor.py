"""Read typed values from the header of a GGUF file, with bounds checks."""

import struct
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

from gguf.constants import GGUFValueType

from reellama.gguf_tools.errors import GGUFError

# The largest vocabularies in use have 262,144 entries, in headers of some 15 MB. Limits keep a
# malicious header to a few seconds and some 500 MB of memory.
MAX_HEADER = 256 << 20  # bytes
MAX_ELEMENTS = 1 << 22  # in all arrays of a file together
BLOCK = 1 << 18  # bytes that a file with a vocabulary is read in

# The format characters of `struct` for the value types of one size.
STRUCT_FORMATS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}
PREFIX = 8  # bytes of the length before each string
_LENGTH = struct.Struct("<Q")


class PackedArray(NamedTuple):
    """An array that is not unpacked yet."""

    type: GGUFValueType  # of the elements
    length: int
    data: bytes  # as in the file

    def unpack(self) -> list[Any]:
        """The array's elements. Bytes of a string that are not UTF-8 become U+FFFD."""
        if self.type != GGUFValueType.STRING:
            return list(struct.unpack(f"<{self.length}{STRUCT_FORMATS[self.type]}", self.data))
        return [*self.strings(self.length)]

    def strings(self, count: int) -> Iterator[str]:
        """The first `count` of its strings."""
        at, data, prefix = 0, self.data, _LENGTH.unpack_from
        for _ in range(count):
            start = at + PREFIX
            at = start + prefix(data, at)[0]
            yield data[start:at].decode("utf-8", "replace")


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

    def damaged(self, problem: str) -> GGUFError:
        """Return the error for a damaged file."""
        return GGUFError(f"{self.path} is damaged: {problem}; download it again")

    def take(self, n_bytes: int) -> bytes:
        """Return the next `n_bytes` bytes."""
        self._check(n_bytes)
        data = self._file.read(n_bytes)
        if len(data) != n_bytes:  # the file became shorter since it was measured
            raise self._cut_off()
        self.position += n_bytes
        return data

    def number(self, format_: str) -> Any:
        """Return the next number, in a format of `struct`."""
        (value,) = struct.unpack(format_, self.take(struct.calcsize(format_)))
        return value

    def count(self, limit: int, noun: str) -> int:
        """Return the next 64-bit count, at most `limit`. noun: what is counted, for the error."""
        count = self.number("<Q")
        if count > limit:
            raise self.damaged(f"it claims to have {count:,} {noun}")
        return count

    def string(self) -> str:
        """Return the next string; bytes that are not UTF-8 become U+FFFD."""
        return self.take(self.number("<Q")).decode("utf-8", "replace")

    def strings(self, count: int) -> bytes:
        """Return the bytes of the next `count` strings, with the length before each.

        Every command reads a vocabulary, which may have hundreds of thousands of strings. So those
        that lie wholly in the buffered block are skipped in one tight loop; the one that crosses
        the block's end is read by itself, with all checks.
        """
        parts: list[bytes] = []
        while count:
            # The file's own buffer, so that nothing is read twice.
            block = self._file.peek()[: min(self._size - self.position, self._header_left())]
            n_whole, end = _whole_strings(block, count)
            parts.append(self.take(end))
            count -= n_whole
            if count:
                prefix = self.take(PREFIX)
                parts += prefix, self.take(_LENGTH.unpack(prefix)[0])
                count -= 1
        return b"".join(parts)

    def value(self) -> Any:
        """Return the next typed value: int, float, bool, str, or an array of one of these."""
        type_ = self.number("<I")
        if type_ == GGUFValueType.STRING:
            return self.string()
        if type_ != GGUFValueType.ARRAY:
            return self.number(self._format(type_))
        element_type = self.number("<I")
        if element_type == GGUFValueType.ARRAY:
            raise self.damaged("it has an array of arrays")
        count = self.count(self._elements_left, "elements in an array")
        self._elements_left -= count
        if element_type == GGUFValueType.STRING:
            return PackedArray(GGUFValueType.STRING, count, self.strings(count))
        size = struct.calcsize(self._format(element_type))
        return PackedArray(GGUFValueType(element_type), count, self.take(count * size))

    def _format(self, type_: int) -> str:
        if type_ not in STRUCT_FORMATS:
            raise self.damaged(f"it has a value of the unknown type {type_}")
        return f"<{STRUCT_FORMATS[GGUFValueType(type_)]}"

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


def _whole_strings(block: bytes, count: int) -> tuple[int, int]:
    """How many of `count` strings at the start of a block lie wholly in it, and where they end."""
    end, whole, prefix = 0, len(block), _LENGTH.unpack_from
    for passed in range(count):
        start = end + PREFIX
        if start > whole or (following := start + prefix(block, end)[0]) > whole:
            return passed, end
        end = following
    return count, end
