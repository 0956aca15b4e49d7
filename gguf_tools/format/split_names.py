"""The names of the files that one model is split into."""

from __future__ import annotations

import re

# The names of llama.cpp's gguf-split, which counts from 1.
PART_PATTERN = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE | re.DOTALL)


def part_names(name: str) -> list[str]:
    """Return the names of all files of the model that `name` is a part of, the first one first.

    >>> part_names("big-00002-of-00002.gguf")
    ['big-00001-of-00002.gguf', 'big-00002-of-00002.gguf']
    """
    match = PART_PATTERN.fullmatch(name)
    if match is None:
        return [name]
    stem, _, count = match.groups()
    return [f"{stem}-{i:05}-of-{count}.gguf" for i in range(1, int(count) + 1)] or [name]
