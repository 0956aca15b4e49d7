"""TOML tables -> dataclasses, with one-line errors for a wrong key or value."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Mapping
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from reellama.gguf_tools.errors import ReellamaError

T = TypeVar("T")

TYPE_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def unknown_name_error(
    noun: str, name: str, known: Collection[str], others: Collection[str] = ()
) -> ReellamaError:
    """The error for a name that is not among `known`.

    noun: what the name should be, for the message. others: further names that the message may
    suggest for a misspelling, but does not list.
    """
    near = difflib.get_close_matches(name, [*known, *others], 1)
    hint = f"did you mean {near[0]}? Known: " if near else "known: "
    return ReellamaError(f"no {noun} is called {name}; {hint}{', '.join(known)}")


def replace_from_table(default: T, table: Mapping[str, Any], name: str) -> T:
    """A copy of the dataclass instance `default` with the values of a TOML table.

    Raises ReellamaError, with the table's name, for an unknown key or a value of a wrong type.
    """
    values = dataclass_arguments(type(default), table, name)
    try:
        return dataclasses.replace(default, **values)  # type: ignore[type-var]
    except ReellamaError as error:
        raise ReellamaError(f"[{name}] {error}") from error


def dataclass_arguments(cls: type, table: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """Arguments for the dataclass `cls` from a TOML table.

    An inner table becomes the dataclass of its field, if the field has one as its default. Raises
    as `replace_from_table`.
    """
    entries = {entry.name: entry for entry in dataclasses.fields(cls)}
    hints = get_type_hints(cls)
    values = {}
    for key, value in table.items():
        if key not in entries:
            noun = f"key of [{name}]" if name else "key of a config"
            raise unknown_name_error(noun, key, entries)
        path, default = f"{name}.{key}" if name else key, entries[key].default
        if dataclasses.is_dataclass(default) and isinstance(value, dict):
            values[key] = replace_from_table(default, value, path)
        else:
            values[key] = _value(hints[key], value, path)
    return values


def _value(hint: Any, value: Any, path: str) -> Any:
    """A TOML value, checked against a type hint; an array becomes a tuple.

    path: of the key, such as `lora.rank`, for messages.
    """
    inner = get_args(hint)
    if dataclasses.is_dataclass(hint):
        raise ReellamaError(f"{path} must be a table, not {value!r}")
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise ReellamaError(f"{path} must be an array, not {value!r}")
        return tuple(_value(inner[0], part, path) for part in value)
    if get_origin(hint) is Mapping:
        if not isinstance(value, dict):
            raise ReellamaError(f"{path} must be a table, not {value!r}")
        return {key: _value(inner[1], part, f"{path}.{key}") for key, part in value.items()}
    expected = next(cls for cls in (hint, *inner) if cls in TYPE_WORDS)  # str in `str | None`
    accepted = (int, float) if expected is float else expected
    # A bool is an int in Python, but not in a config.
    if not isinstance(value, accepted) or (isinstance(value, bool) and expected is not bool):
        raise ReellamaError(f"{path} must be {TYPE_WORDS[expected]}, not {value!r}")
    return value
