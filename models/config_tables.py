"""TOML tables as dataclasses, and in one line what is wrong with one."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Mapping
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from reellama.gguf_tools.errors import ReellamaError

T = TypeVar("T")

TYPE_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def unknown_name_error(
    what: str, name: str, known: Collection[str], others: Collection[str] = ()
) -> ReellamaError:
    """The error for a name that is none of `known`; it suggests one of those, or of `others`, that
    is nearly so."""
    near = difflib.get_close_matches(name, [*known, *others], 1)
    rest = f"did you mean {near[0]}? Known: " if near else "known: "
    return ReellamaError(f"no {what} is called {name}; {rest}{', '.join(known)}")


def replace_from_table(default: T, table: Mapping[str, Any], name: str) -> T:
    """A dataclass with the values of a table; what the table leaves out is as in `default`.

    Raises ReellamaError, with the table's name, for an unknown key or a value of another kind.
    """
    values = dataclass_arguments(type(default), table, name)
    try:
        return dataclasses.replace(default, **values)  # type: ignore[type-var]
    except ReellamaError as error:
        raise ReellamaError(f"[{name}] {error}") from error


def dataclass_arguments(cls: type, table: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """Arguments for a dataclass out of a table; tables in it become the dataclasses of its fields.

    Raises as `replace_from_table`.
    """
    entries = {entry.name: entry for entry in dataclasses.fields(cls)}
    hints = get_type_hints(cls)
    values = {}
    for key, value in table.items():
        if key not in entries:
            what = f"key of [{name}]" if name else "key of a config"
            raise unknown_name_error(what, key, entries)
        path, default = f"{name}.{key}" if name else key, entries[key].default
        if dataclasses.is_dataclass(default) and isinstance(value, dict):
            values[key] = replace_from_table(default, value, path)
        else:
            values[key] = _value(hints[key], value, path)
    return values


def _value(kind: Any, value: Any, path: str) -> Any:
    """The value as its kind would have it: an array as a tuple."""
    inner = get_args(kind)
    if dataclasses.is_dataclass(kind):
        raise ReellamaError(f"{path} must be a table, not {value!r}")
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ReellamaError(f"{path} must be an array, not {value!r}")
        return tuple(_value(inner[0], part, path) for part in value)
    if get_origin(kind) is Mapping:
        if not isinstance(value, dict):
            raise ReellamaError(f"{path} must be a table, not {value!r}")
        return {key: _value(inner[1], part, f"{path}.{key}") for key, part in value.items()}
    plain = next(one for one in (kind, *inner) if one in TYPE_WORDS)  # of `str | None`, str
    fits = (int, float) if plain is float else plain
    if not isinstance(value, fits) or (isinstance(value, bool) and plain is not bool):
        raise ReellamaError(f"{path} must be {TYPE_WORDS[plain]}, not {value!r}")
    return value
