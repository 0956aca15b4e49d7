"""The metadata of a GGUF file: values by key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from gguf.constants import GGUFValueType

from reellama.gguf_tools.format.header_cursor import PackedArray


class HeaderMetadata(Mapping[str, Any]):
    """The values of a header by key: int, float, bool, str, or a list of one of these. Immutable.

    Lists are unpacked at their first access. Most commands do not need the vocabulary, and to
    unpack its strings takes longer than to read the rest of a header.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        if isinstance(value, PackedArray):
            value = self._values[key] = value.unpack()
        return value

    def text(self, key: str, index: int) -> str | None:
        """The element `index` of a list of texts, without unpacking those after it; else None."""
        value = self._values.get(key)
        if isinstance(value, PackedArray) and value.type == GGUFValueType.STRING:
            if 0 <= index < value.length:
                return next(islice(value.strings(index + 1), index, None))
            return None
        texts = self.get(key)
        if isinstance(texts, list) and 0 <= index < len(texts):
            return str(texts[index])
        return None

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(dict(self))
