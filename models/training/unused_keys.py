"""Refuse keys of a training config that have no effect together with its other keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from reellama.gguf_tools.errors import ReellamaError


class UnusedKeyRule(NamedTuple):
    """Keys that have no effect in configs without the key `without`, or with the key `beside`. A
    rule with both is about configs without the one and with the other.

    For example, UnusedKeyRule(("average_with",), without="weight_average") refuses a file to
    average with if no average is made.
    """

    keys: tuple[str, ...]
    without: str = ""
    beside: str = ""


def refuse_unused_keys(rules: Iterable[UnusedKeyRule], values: Mapping[str, Any]) -> None:
    """Raise ReellamaError for the first key in the values of a file that has no effect."""
    for keys, without, beside in rules:
        if (without and _is_set(values, without)) or (beside and not _is_set(values, beside)):
            continue
        for key in keys:
            if _is_set(values, key):
                conditions = [("without", without), ("beside", beside)]
                why = " ".join(f"{word} {name}" for word, name in conditions if name)
                raise ReellamaError(f"{key} does nothing {why}; take it out")


def _is_set(values: Any, key: str) -> bool:
    """Whether a key, such as "tower.name", has a value that is not empty or zero."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return bool(values)
