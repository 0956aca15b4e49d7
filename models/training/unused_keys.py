"""Keys of a training config that would be unused beside its other keys: they are refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from reellama.gguf_tools.errors import ReellamaError


class UnusedKeyRule(NamedTuple):
    """Keys that do nothing in some configs: those without the key `without`, or those with the key
    `beside`. A rule that names both is about configs without the one and with the other.

    For example, UnusedKeyRule(("average_with",), without="weight_average") refuses a file to
    average with where no average is made.
    """

    keys: tuple[str, ...]
    without: str = ""
    beside: str = ""


def refuse_unused_keys(rules: Iterable[UnusedKeyRule], values: Mapping[str, Any]) -> None:
    """Raise ReellamaError for the first key of a file's values that does nothing."""
    for keys, without, beside in rules:
        if (without and _given(values, without)) or (beside and not _given(values, beside)):
            continue
        for key in keys:
            if _given(values, key):
                others = [("without", without), ("beside", beside)]
                why = " ".join(f"{word} {other}" for word, other in others if other)
                raise ReellamaError(f"{key} does nothing {why}; take it out")


def _given(values: Any, key: str) -> bool:
    """Whether a key, such as "tower.name", is there and no zero."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return bool(values)
