"""Finds keywords of a JSON schema whose values are of the wrong kind, for error messages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
MAPPINGS = ("properties", "$defs", "definitions")  # keywords with schemas by name
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")  # keywords with lists of schemas
MAX_SHOWN = 60  # characters of a path or value in an error


def _is_list_of(kind: type | tuple[type, ...]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _is_type(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return all(isinstance(name, str) and name in TYPES for name in names)


def _is(kind: type | tuple[type, ...]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind) and not isinstance(value, bool)


_MAPPING = ("an object of schemas", _is(dict))
_SCHEMAS = ("a list of schemas", _is_list_of((dict, bool)))
_TEXT = ("a text", _is(str))
_BOUND = ("a whole number", _is(int))
# Keyword -> the kind of its value in words, and a check of it.
KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "type": (f"one of {', '.join(TYPES)}, or a list of these", _is_type),
    "required": ("a list of names", _is_list_of(str)),
    "enum": ("a list of values", _is(list)),
    **dict.fromkeys(MAPPINGS, _MAPPING),
    **dict.fromkeys(LISTS, _SCHEMAS),
    "items": ("a schema", lambda value: isinstance(value, dict | list | bool)),
    **dict.fromkeys(("pattern", "format", "$ref"), _TEXT),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), _BOUND),
}


def wrong_kind(schema: Any) -> str | None:
    """The first value of a wrong kind in a schema, in words; None if there is none."""
    stack = [("", schema)]
    while stack:
        path, part = stack.pop()
        if isinstance(part, bool):
            continue
        if not isinstance(part, dict):
            return f"{path[:MAX_SHOWN] or 'it'} must be an object, not {_kind(part)}"
        for keyword, (expected, is_right) in KINDS.items():
            if keyword in part and not is_right(part[keyword]):
                field = f"{path}.{keyword}".lstrip(".")[:MAX_SHOWN]
                return f"{field} must be {expected}, not {_kind(part[keyword])}"
        stack += [(f"{path}.{step}".lstrip("."), inner) for step, inner in _schemas(part)]
    return None


def _schemas(part: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The schemas directly inside of a schema, each with its relative path."""
    for keyword, (expected, _) in KINDS.items():
        value = part.get(keyword)
        if keyword == "items" and isinstance(value, dict):
            yield keyword, value
        elif expected == _MAPPING[0] and value is not None:
            yield from ((f"{keyword}.{name}", inner) for name, inner in value.items())
        elif expected == _SCHEMAS[0] and value is not None:
            yield from ((f"{keyword}.{i}", inner) for i, inner in enumerate(value))


def _kind(value: Any) -> str:
    """A value in words, for an error message."""
    if isinstance(value, dict | list):
        name = "object" if isinstance(value, dict) else "list"
        return f"this {name}" if value else f"an empty {name}"
    return json.dumps(value)[:MAX_SHOWN]
